// Each slider fades the overlay beside it.
for (const figure of document.querySelectorAll(".fading")) {
  fade(figure.querySelector("input"), figure.querySelector("output"), () => figure.querySelectorAll(".over"));
}
