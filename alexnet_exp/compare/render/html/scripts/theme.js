// Light and dark: the system's choice until the button is pressed, then the reader's.
const THEME_KEY = "report-theme";
const themeButton = byId("theme");
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme || (systemIsDark.matches ? "dark" : "light")) === "dark";

function labelThemeButton() {
  const other = isDark() ? "light" : "dark";
  themeButton.textContent = other === "light" ? "Light" : "Dark";
  themeButton.setAttribute("aria-label", `Switch to ${other} colours`);
  themeButton.setAttribute("aria-pressed", String(isDark()));
}

// Browsers may forbid storage to a local file.
function saveTheme(theme) {
  try {
    localStorage.setItem(THEME_KEY, theme);
  } catch {
    // The page forgets the choice.
  }
}

function savedTheme() {
  try {
    return localStorage.getItem(THEME_KEY);
  } catch {
    return null;
  }
}

themeButton.addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  saveTheme(theme);
  labelThemeButton();
});
const initialTheme = savedTheme();
if (initialTheme) document.documentElement.dataset.theme = initialTheme;
systemIsDark.addEventListener("change", labelThemeButton);
labelThemeButton();
