// The tooltip beside the pointer.
const TOOLTIP_GAP = 16; // pixels between the pointer and the tooltip
const WINDOW_GAP = 4; // pixels between the tooltip and the window's edge
const tooltip = byId("tip");

function showTooltip(content, x, y) {
  tooltip.replaceChildren(...content);
  tooltip.hidden = false;
  const { width, height } = tooltip.getBoundingClientRect();
  const left = x + TOOLTIP_GAP + width > innerWidth ? x - TOOLTIP_GAP - width : x + TOOLTIP_GAP;
  const place = (start, size, room) => Math.max(WINDOW_GAP, Math.min(start, room - size - WINDOW_GAP)) + "px";
  tooltip.style.left = place(left, width, innerWidth);
  tooltip.style.top = place(y - height / 2, height, innerHeight);
}

function hideTooltip() {
  tooltip.hidden = true;
}

addEventListener("scroll", hideTooltip, { passive: true });
