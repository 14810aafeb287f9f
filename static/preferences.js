// What is kept for the `tab` or on this `device`. It runs before anything is drawn, and alone uses the browser's storage.
// Where that is blocked or full, it holds for this page.

function kept(storage) {
  const here = new Map();
  return {
    /** Return what was kept under this name, or ''. */
    get(key) {
      try {
        return here.get(key) ?? globalThis[storage].getItem(`quartermaster.${key}`) ?? '';
      } catch {
        return '';
      }
    },
    /** Keep this; '' forgets it. */
    set(key, value) {
      try {
        if (value) globalThis[storage].setItem(`quartermaster.${key}`, value);
        else globalThis[storage].removeItem(`quartermaster.${key}`);
        here.delete(key);
      } catch {
        here.set(key, String(value));
      }
    },
  };
}

globalThis.preferences = { tab: kept('sessionStorage'), device: kept('localStorage') };
document.documentElement.dataset.theme = preferences.device.get('theme');
