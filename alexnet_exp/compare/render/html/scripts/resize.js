// Plots are drawn for the width of the window, at first and whenever it changes.
let drawnWidth = 0;

function redraw() {
  const width = document.documentElement.clientWidth;
  if (width === drawnWidth) return;
  drawnWidth = width;
  showCurves();
  for (const panel of settingPanels) panel.redraw();
}

addEventListener("resize", redraw);
redraw();
