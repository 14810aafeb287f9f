// What this device remembers: the theme, and the token where that was asked for. It runs before anything is drawn.

globalThis.preferences = {
  /** Return what was kept under this name, or ''. */
  get(name) {
    try {
      return localStorage.getItem(`quartermaster.${name}`) ?? '';
    } catch {
      return ''; // storage is blocked
    }
  },
  /** Keep this; '' forgets it. */
  set(name, value) {
    try {
      if (value) localStorage.setItem(`quartermaster.${name}`, value);
      else localStorage.removeItem(`quartermaster.${name}`);
    } catch {} // then it holds until the page is closed
    if (name === 'theme') document.documentElement.dataset.theme = value;
  },
};
document.documentElement.dataset.theme = preferences.get('theme');
