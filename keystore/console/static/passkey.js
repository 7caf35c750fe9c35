// Asks the browser for a passkey, or for its signature, and sends the form with the answer.
"use strict";

const form = document.querySelector("form[data-passkey]");
const said = document.getElementById("passkey-said");

function bytes(text) {
  const plain = atob(text.replace(/-/g, "+").replace(/_/g, "/"));
  return Uint8Array.from(plain, one => one.charCodeAt(0));
}

function text(buffer) {
  return btoa(String.fromCharCode(...new Uint8Array(buffer)));
}

function put(name, value) {
  form.elements.namedItem(name).value = value;
}

async function make() {
  const made = await navigator.credentials.create({ publicKey: {
    challenge: bytes(form.dataset.challenge),
    rp: { id: form.dataset.rp, name: "keyanon keystore" },
    user: { id: bytes(form.dataset.user), name: form.dataset.person, displayName: form.dataset.person },
    pubKeyCredParams: [{ type: "public-key", alg: -7 }, { type: "public-key", alg: -8 }],
    authenticatorSelection: { residentKey: "preferred", userVerification: "required" },
    attestation: "none",
  } });
  put("credential", made.id);
  put("client_data", text(made.response.clientDataJSON));
  put("attestation", text(made.response.attestationObject));
}

async function sign() {
  const chosen = form.elements.namedItem("grant_seconds");
  const asked = chosen ? chosen.selectedOptions[0] : form;
  const signed = await navigator.credentials.get({ publicKey: {
    challenge: bytes(asked.dataset.challenge),
    rpId: form.dataset.rp,
    allowCredentials: [{ type: "public-key", id: bytes(form.dataset.credential) }],
    userVerification: "required",
  } });
  put("client_data", text(signed.response.clientDataJSON));
  put("authenticator_data", text(signed.response.authenticatorData));
  put("signature", text(signed.response.signature));
}

form.addEventListener("submit", async event => {
  event.preventDefault();
  said.textContent = "Your browser asks for your passkey.";
  try {
    await (form.dataset.passkey === "make" ? make() : sign());
  } catch (error) {
    said.textContent = "Not done: your browser gave no passkey (" + error.name + "). Try again.";
    return;
  }
  form.submit(); // which does not come back here
});
