// Lets the browser make a passkey or answer with one. Browsers do that on a click only, and the
// private key never leaves the device.

const bytes = (text) => Uint8Array.from(
  atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
const text = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)))
  .replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

function asked(options, names) {
  const publicKey = { ...options, challenge: bytes(options.challenge) };
  for (const name of names) {
    publicKey[name] = (options[name] || []).map((one) => ({ ...one, id: bytes(one.id) }));
  }
  return publicKey;
}

async function create(options) {
  const publicKey = asked(options, ["excludeCredentials"]);
  publicKey.user = { ...options.user, id: bytes(options.user.id) };
  return navigator.credentials.create({ publicKey });
}

async function get(options) {
  return navigator.credentials.get({ publicKey: asked(options, ["allowCredentials"]) });
}

function answer(credential) {
  const said = credential.response;
  const response = { clientDataJSON: text(said.clientDataJSON) };
  for (const name of ["attestationObject", "authenticatorData", "signature", "userHandle"]) {
    if (said[name]) response[name] = text(said[name]);
  }
  return JSON.stringify({
    id: credential.id,
    rawId: text(credential.rawId),
    type: credential.type,
    response,
    clientExtensionResults: credential.getClientExtensionResults(),
  });
}

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const button = parentElement.querySelector("button");
  const said = parentElement.querySelector("p");
  button.textContent = data.label;
  button.disabled = !window.PublicKeyCredential;
  said.textContent = button.disabled ? "This browser cannot use passkeys at this address." : "";
  button.onclick = async () => {
    button.disabled = true;
    said.textContent = "Follow your device.";
    try {
      const options = JSON.parse(data.options);
      const credential = await (options.rp ? create(options) : get(options));
      said.textContent = "";
      setTriggerValue("answer", answer(credential));
    } catch (error) {
      // The browser says the same for "cancelled" and "no such key", so that pages cannot tell.
      said.textContent = error.name === "InvalidStateError"
        ? "This device is already set up."
        : "Your device did not answer. Try again, or use another way.";
    }
    button.disabled = false;
  };
}
