// The buttons that copy a text field.
async function copyField(field) {
  try {
    await navigator.clipboard.writeText(field.value);
    return true;
  } catch {
    // Browsers may forbid the clipboard to a local file; the selection can still be copied.
    field.closest("details").open = true;
    field.select();
  }
  try {
    return document.execCommand("copy");
  } catch {
    return false;
  }
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const copied = await copyField(byId(button.dataset.copy));
    byId("copied").textContent = copied
      ? "Copied."
      : "The browser did not allow copying. The text is selected: copy it with the keyboard.";
  });
}
