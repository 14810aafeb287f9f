// What is kept: for the `tab`, or on this `device`, the theme, and the token where that was asked for. It runs before
// anything is drawn, and is the only way to the browser's storage, which may be blocked: then it holds for this page.

function kept(storage) {
  const blocked = new Map();
  return {
    /** Return what was kept under this name, or ''. */
    get(key) {
      try {
        return globalThis[storage].getItem(`quartermaster.${key}`) ?? '';
      } catch {
        return blocked.get(key) ?? '';
      }
    },
    /** Keep this; '' forgets it. */
    set(key, value) {
      try {
        if (value) globalThis[storage].setItem(`quartermaster.${key}`, value);
        else globalThis[storage].removeItem(`quartermaster.${key}`);
      } catch {
        blocked.set(key, String(value));
      }
    },
  };
}

globalThis.preferences = { tab: kept('sessionStorage'), device: kept('localStorage') };
document.documentElement.dataset.theme = preferences.device.get('theme');
