"use strict";
// Small things that all pages use. Text of strangers only ever becomes text: nothing here parses HTML.

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "class") element.className = value;
    else if (name in element && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// A choice of one among a few: radio buttons, which the browser moves through by arrow keys.
function segments(place, name, options, chosen, change) {
  const inputs = new Map();
  for (const [value, words] of options) {
    const input = make("input", { type: "radio", name, value, checked: value === chosen });
    input.addEventListener("change", () => change(value));
    inputs.set(value, input);
    place.append(make("label", {}, input, make("span", {}, words)));
  }
  return (value) => {
    inputs.get(value).checked = true;
  };
}

// The slider that fades an overlay in over its picture.
function fade(slider, value, layers) {
  const show = () => {
    value.textContent = `${slider.value} %`;
    for (const layer of layers()) layer.style.opacity = slider.value / 100;
  };
  slider.addEventListener("input", show);
  show();
  return show;
}

function closeOnBackdrop(dialog) {
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}
