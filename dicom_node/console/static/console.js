// What makes pages live: times in the reader's zone, and regions that are fetched again while somebody looks at them.
// Every page works without it.
'use strict';

const clock = new Intl.DateTimeFormat(undefined, {
  year: 'numeric', month: '2-digit', day: '2-digit', hour: '2-digit', minute: '2-digit', second: '2-digit',
});

function showLocalTimes(root) {
  for (const one of root.querySelectorAll('time[datetime]')) {
    const at = new Date(one.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    one.title = one.textContent;
    one.textContent = clock.format(at);
  }
}

// Times are typed in the zone of the reader too, and asked for in UTC.
function typeLocalTimes() {
  for (const said of document.querySelectorAll('label [data-utc]')) {
    const input = said.parentElement.querySelector('input');
    const at = new Date(`${input.value}Z`);
    if (!Number.isNaN(at.getTime())) {
      input.value = new Date(at.getTime() - 60_000 * at.getTimezoneOffset()).toISOString().slice(0, 19);
    }
    input.form.addEventListener('formdata', event => {
      const typed = new Date(input.value);
      event.formData.set(input.name, Number.isNaN(typed.getTime()) ? '' : typed.toISOString().slice(0, 19));
    });
    said.remove();
  }
}

// On a phone the rows of a table are blocks, and each cell names its column.
function nameColumns(root) {
  for (const table of root.querySelectorAll('table')) {
    const names = [...table.querySelectorAll('thead th')].map(one => one.textContent.trim());
    for (const row of table.querySelectorAll('tbody tr')) {
      [...row.children].forEach((cell, index) => { cell.dataset.label = names[index] ?? ''; });
    }
  }
}

function sayZone() {
  const said = document.querySelector('[data-zone]');
  if (said) said.textContent = `times in ${Intl.DateTimeFormat().resolvedOptions().timeZone}`;
}

// A text that people paste elsewhere gets a button; a browser that reaches the console without TLS copies what is selected.
function offerCopies(root) {
  for (const text of root.querySelectorAll('textarea[data-copy]')) {
    const button = document.createElement('button');
    const said = document.createElement('span');
    button.type = 'button';
    button.textContent = text.dataset.copy;
    said.setAttribute('role', 'status');
    said.className = 'muted';
    button.addEventListener('click', async () => {
      text.select();
      try {
        if (navigator.clipboard) await navigator.clipboard.writeText(text.value);
        else document.execCommand('copy');
        said.textContent = ' Copied.';
      } catch {
        said.textContent = ' It is selected: copy it with the keyboard.';
      }
    });
    text.after(button, said);
  }
}

// Someone who types or has opened something inside must not lose it.
function isInUse(region) {
  return region.contains(document.activeElement) || region.querySelector('details[open]') !== null;
}

async function renew(region) {
  let answer;
  try {
    const headers = { 'X-Live': '1' };
    if (region.dataset.tag) headers['If-None-Match'] = region.dataset.tag;
    answer = await fetch(region.dataset.live, { headers, cache: 'no-store' });
  } catch {
    region.classList.add('stale');
    return;
  }
  if (answer.status === 401) {
    window.location.reload();
    return;
  }
  const unchanged = answer.status === 304;
  region.classList.toggle('stale', !answer.ok && !unchanged);
  if (!answer.ok || isInUse(region)) return;
  const fetched = new DOMParser().parseFromString(await answer.text(), 'text/html');
  const fresh = fetched.querySelector('[data-live]');
  if (fresh === null) return;
  showLocalTimes(fresh);
  nameColumns(fresh);
  replaceChanged(region, fresh);
  region.dataset.tag = answer.headers.get('ETag') ?? '';
}

// Only what differs is put in place, so that a screen reader says what is new and nothing else.
function replaceChanged(old, fresh) {
  const before = [...old.children];
  const after = [...fresh.children];
  if (before.length !== after.length || before.some((one, index) => one.tagName !== after[index].tagName)) {
    old.replaceChildren(...after);
    return;
  }
  before.forEach((one, index) => {
    if (one.outerHTML === after[index].outerHTML) return;
    if (one.getAttribute('role') === 'status') {
      one.className = after[index].className;
      if (one.textContent !== after[index].textContent) one.textContent = after[index].textContent;
    } else {
      one.replaceWith(after[index]);
    }
  });
}

for (const region of document.querySelectorAll('[data-live]')) {
  const every = 1000 * Number(region.dataset.every);
  const again = async () => {
    if (!document.hidden) await renew(region);
    setTimeout(again, every);
  };
  setTimeout(again, every);
}
showLocalTimes(document);
typeLocalTimes();
nameColumns(document);
offerCopies(document);
sayZone();
