// Exchanges a one-time ticket for the session cookie, or ends the session, then reloads the page,
// so that everything on it uses the cookie that scripts cannot read.

const used = new Set();

export default function (component) {
  const { data, setTriggerValue } = component;
  const order = data.ticket || data.end;
  if (used.has(order)) return;
  used.add(order);
  fetch("/api/session", {
    method: data.ticket ? "POST" : "DELETE",
    credentials: "same-origin",
    headers: { "Content-Type": "application/json" },
    body: data.ticket ? JSON.stringify({ ticket: data.ticket }) : undefined,
  }).then((answer) => {
    if (answer.ok) window.location.replace(data.ticket ? window.location.href : "/");
    else setTriggerValue("failed", true);
  }).catch(() => setTriggerValue("failed", true));
}
