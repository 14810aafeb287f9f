// One question before something is stopped, removed or rolled back.

import { $, say } from './dom.js';

let act;

$('confirm-yes').addEventListener('click', answer);

/** Ask; `yes` is the label of the button that calls action(), which is awaited. Its error is shown in the question. */
export function ask(title, text, yes, action) {
  act = action;
  say($('confirm-title'), title);
  say($('confirm-text'), text);
  say($('confirm-error'), '');
  say($('confirm-yes'), yes);
  $('confirm-yes').disabled = false;
  $('confirm').showModal();
}

async function answer() {
  const asked = act;
  $('confirm-yes').disabled = true;
  try {
    await asked();
    if (asked === act) $('confirm').close();
  } catch (error) {
    $('confirm-yes').disabled = error.status === 403; // this token may not
    say($('confirm-error'), error.message);
    $('confirm-yes').focus();
  }
}
