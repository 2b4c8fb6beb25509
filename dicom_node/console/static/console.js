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

// Someone who types or has opened something inside must not lose it.
function isInUse(region) {
  return region.contains(document.activeElement) || region.querySelector('details[open]') !== null;
}

async function renew(region) {
  let answer;
  try {
    answer = await fetch(region.dataset.live, { headers: { 'X-Live': '1' }, cache: 'no-store' });
  } catch {
    region.classList.add('stale');
    return;
  }
  if (answer.status === 401) {
    window.location.reload();
    return;
  }
  region.classList.toggle('stale', !answer.ok);
  if (!answer.ok || isInUse(region)) return;
  const fetched = new DOMParser().parseFromString(await answer.text(), 'text/html');
  const fresh = fetched.querySelector('[data-live]');
  if (fresh === null) return;
  showLocalTimes(fresh);
  nameColumns(fresh);
  replaceChanged(region, fresh);
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
nameColumns(document);
sayZone();
