// Exchanges a one-time ticket for the session cookie, or ends the session, then reloads the page,
// so that everything on it uses the cookie that scripts cannot read. After a fresh proof the page
// stays: the cookie is another one of the same session.

const used = new Set();

// A page of before shows the sign-in although the browser has a good cookie: open it anew, once.
async function check() {
  const before = Number(sessionStorage.getItem("medsec.checked") || 0);
  if (Date.now() - before < 10_000) return;
  sessionStorage.setItem("medsec.checked", String(Date.now()));
  const answer = await fetch("/api/auth/me/", { credentials: "same-origin" });
  if (answer.ok) window.location.reload();
}

export default function (component) {
  const { data, setTriggerValue } = component;
  if (data.check) {
    check();
    return;
  }
  const order = data.ticket || data.end;
  if (used.has(order)) return;
  used.add(order);
  fetch("/api/session", {
    method: data.ticket ? "POST" : "DELETE",
    credentials: "same-origin",
    headers: { "Content-Type": "application/json" },
    body: data.ticket ? JSON.stringify({ ticket: data.ticket }) : undefined,
  }).then((answer) => {
    if (answer.ok && data.stay) return;
    if (answer.ok) window.location.replace(data.ticket ? window.location.href : "/");
    else setTriggerValue("failed", true);
  }).catch(() => setTriggerValue("failed", true));
}
