// Shows published pictures that an approver has: those of the files they chose whose SHA-256 is that of a key record. Nothing is sent.
"use strict";

const MOST_BYTES = 64 * 1024 * 1024; // of a file, which is held in memory while it is looked at
const said = document.getElementById("pictures-said");
const places = new Map(); // by digest

for (const place of document.querySelectorAll("[data-digest]")) {
  places.set(place.dataset.digest, [...(places.get(place.dataset.digest) || []), place]);
}

async function digestOf(data) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return Array.from(digest, one => one.toString(16).padStart(2, "0")).join("");
}

function show(place, data) {
  const words = place.querySelector(".said");
  if (place.querySelector("img")) return;
  const picture = document.createElement("img");
  picture.alt = "The published picture";
  picture.addEventListener("error", () => {
    picture.remove();
    words.textContent = "it is its key record's, and your browser can not show it";
  });
  picture.src = URL.createObjectURL(new Blob([data])); // of the very bytes that were digested
  words.textContent = "as its key record has it";
  place.append(picture);
}

async function look(event) {
  let others = 0;
  let unread = 0;
  for (const file of event.target.files) {
    let data = null;
    try {
      data = file.size <= MOST_BYTES ? await file.arrayBuffer() : null;
    } catch {
      data = null;
    }
    if (data === null) {
      unread += 1;
      continue;
    }
    const found = places.get(await digestOf(data));
    if (!found) others += 1;
    else found.forEach(place => show(place, data));
  }
  const shown = document.querySelectorAll(".pictures img").length;
  const all = document.querySelectorAll(".pictures li").length;
  said.textContent = `${shown} of ${all} pictures are their key records'. Of the files chosen, ${others} are none of them` +
    (unread ? `, and ${unread} could not be read or are larger than 64 MiB.` : ".");
}

for (const name of ["files", "folder"]) document.getElementById(name).addEventListener("change", look);
