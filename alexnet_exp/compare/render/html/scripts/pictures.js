// Pictures are enlarged in a dialog.
const dialog = byId("zoomed");

for (const button of document.querySelectorAll(".zoom")) {
  button.addEventListener("click", () => {
    const [source, target] = [button.querySelector("img"), dialog.querySelector("img")];
    target.src = source.src;
    target.alt = source.alt;
    dialog.showModal();
  });
}

dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();
});
