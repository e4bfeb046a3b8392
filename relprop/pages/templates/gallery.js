// The gallery of samples: filter, sort, open large.
(() => {
  const byId = (id) => document.getElementById(id);
  const facts = JSON.parse(byId("facts").textContent);
  const { samples, methods, scores, runs } = facts;
  const VIEWS = [["picture", "picture"], ["map", "map"], ["overlay", "overlay"], ["masks", "masks"], ["mosaic", "mosaic"]];
  const gallery = byId("gallery"), list = byId("cards"), dialog = byId("large");
  const places = new Map(samples.map((sample, k) => [`${sample.run}:${sample.index}`, k]));
  const parsed = new Map();
  let shown = [], open = -1;

  function images(k) {
    if (!parsed.has(k)) parsed.set(k, JSON.parse(byId(`images-${k}`).textContent));
    return parsed.get(k);
  }

  function option(select, value, words) {
    select.append(make("option", { value }, words));
  }

  const scored = (sample) => {
    const found = sample.methods[state.method];
    return found ? found.scores[state.score] : null;
  };
  const written = (value) => (value === null || value === undefined ? "–" : value.toFixed(3));
  const titled = (sample) => sample.name || `sample ${sample.index}`;

  // What a frame shows of a sample

  function picture(address, alt, kind) {
    return make("img", { src: address, alt, class: kind || "", decoding: "async", draggable: false });
  }

  function nothing(words) {
    return make("span", { class: "nothing" }, words);
  }

  function mosaic(k, sample) {
    const grid = make("span", { class: "mosaic" });
    for (const member of sample.members) {
      const other = places.get(`${sample.run}:${member}`);
      const found = other === undefined ? null : images(other).picture;
      const own = member === sample.index;
      const name = other === undefined ? `sample ${member}` : titled(samples[other]);
      const tile = found ? picture(found, own ? `${name}, the sample itself` : name) : nothing(name);
      tile.classList.toggle("own", own);
      grid.append(tile);
    }
    return grid;
  }

  function draw(frame, k, view, large) {
    const sample = samples[k], found = images(k), method = methods[state.method];
    const what = `${titled(sample)}: `;
    let content = [];
    if (view === "picture") {
      content = found.picture ? [picture(found.picture, `${what}the picture`)] : [nothing("no picture")];
    } else if (view === "map") {
      const map = found.map[state.method];
      content = map ? [picture(map, `${what}relevance map of ${method.name}`, "sharp")] : [nothing("no map kept")];
    } else if (view === "overlay") {
      const map = found.map[state.method], over = found.overlay[state.method];
      const words = `${what}relevance of ${method.name} over the picture`;
      if (over && large) content = [picture(found.picture, ""), picture(over, words, "over")];
      else if (over) content = [picture(over, words)];
      else if (map) content = [picture(map, `${what}relevance map of ${method.name}`, "sharp")];
      else content = [found.picture ? picture(found.picture, `${what}the picture, no map kept`) : nothing("no map kept")];
    } else if (view === "masks") {
      const words = `${what}when pixels are masked, most relevant first on the left, least relevant first on the right; dark is early`;
      content = found.masks ? [picture(found.masks, words)] : [nothing("no masks")];
    } else if (sample.members.every((member) => member < 0)) {
      content = [nothing("no mosaic")];
    } else {
      content = [mosaic(k, sample)];
    }
    frame.dataset.view = view;
    frame.replaceChildren(...content);
  }

  // Cards

  const cards = samples.map((sample, k) => {
    const frame = make("span", { class: "frame" });
    const score = make("span", { class: "score" });
    const marks = make("span", { class: "marks" });
    if (sample.right === false) marks.append(make("span", { class: "badge wrong" }, "wrong"));
    if (sample.state !== "done") marks.append(make("span", { class: "badge wrong" }, sample.state));
    const failed = make("span", { class: "badge wrong" }, "failed");
    marks.append(failed);
    const words = make("span", { class: "words" },
      make("bdi", { class: "class" }, sample.target || "no class"), score, marks,
      make("bdi", { class: "name" }, titled(sample)));
    const button = make("button", { type: "button", class: "card" }, frame, words);
    button.addEventListener("click", () => show(k));
    const item = make("li", {}, button);
    item.dataset.sample = k;
    return { item, button, frame, score, failed, drawn: "" };
  });

  function refresh(k) {
    const card = cards[k], key = `${state.view} ${state.method}`;
    if (card.drawn === key) return;
    draw(card.frame, k, state.view, false);
    card.drawn = key;
  }

  const near = new Set();
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const k = Number(entry.target.dataset.sample);
      if (entry.isIntersecting) {
        near.add(k);
        refresh(k);
      } else {
        near.delete(k);
      }
    }
  }, { rootMargin: "400px" });

  // Filter and sort

  const controls = Object.fromEntries(
    ["search", "run", "class", "right", "method", "score", "low", "high", "sort"].map((id) => [id, byId(`by-${id}`)]));
  const state = { method: 0, score: 0, view: "overlay" };

  function matches(sample) {
    const words = controls.search.value.trim().toLowerCase();
    if (words && ![sample.name, sample.label, sample.prediction, sample.target].some((t) => t.toLowerCase().includes(words))) return false;
    if (controls.run.value !== "" && sample.run !== Number(controls.run.value)) return false;
    const wanted = controls.class.value;
    if (wanted !== "" && sample.target !== classes[wanted] && sample.label !== classes[wanted]) return false;
    const right = sample.right === null ? "unknown" : sample.right ? "right" : "wrong";
    if (controls.right.value && controls.right.value !== right) return false;
    const value = scored(sample);
    const low = controls.low.valueAsNumber, high = controls.high.valueAsNumber;
    if (!Number.isNaN(low) && !(value !== null && value >= low)) return false;
    return Number.isNaN(high) || (value !== null && value <= high);
  }

  function order() {
    const sign = scores[state.score] ? scores[state.score].sign : 1;
    const last = (a, b) => (a === null) - (b === null);
    const by = {
      best: (a, b) => last(scored(a), scored(b)) || sign * (scored(b) - scored(a)),
      worst: (a, b) => last(scored(a), scored(b)) || sign * (scored(a) - scored(b)),
      name: (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }),
      class: (a, b) => a.target.localeCompare(b.target),
      probability: (a, b) => last(a.probability, b.probability) || b.probability - a.probability,
      index: () => 0,
    }[controls.sort.value];
    return (a, b) => by(samples[a], samples[b]) || a - b;
  }

  function update() {
    state.method = Number(controls.method.value);
    state.score = Number(controls.score.value);
    shown = samples.map((_, k) => k).filter((k) => matches(samples[k])).sort(order());
    const title = scores[state.score] ? scores[state.score].title : "";
    for (const k of shown) {
      const found = samples[k].methods[state.method];
      cards[k].score.textContent = `${title} ${written(scored(samples[k]))}`;
      cards[k].failed.hidden = !found || found.state !== "failed" || samples[k].state !== "done";
    }
    list.replaceChildren(...shown.map((k) => cards[k].item));
    byId("count").textContent = `${shown.length.toLocaleString("en")} of ${samples.length.toLocaleString("en")} samples`;
    for (const k of near) refresh(k);
  }

  const moveView = [];
  function choose(view) {
    state.view = view;
    for (const move of moveView) move(view);
    for (const k of near) refresh(k);
    if (dialog.open) enlarge();
  }

  // One sample, large

  const slider = byId("slider");
  const showFade = fade(slider, byId("slider-value"), () => byId("frame").querySelectorAll(".over"));

  function show(k) {
    open = k;
    enlarge();
    if (!dialog.open) dialog.showModal();
  }

  function step(by) {
    const place = shown.indexOf(open) + by;
    if (place >= 0 && place < shown.length) show(shown[place]);
  }

  const NOTES = {
    picture: "As the model saw it, or whole where that can’t be told.",
    map: "Red speaks for the class, blue against it; colours saturate at the 99.5th percentile.",
    overlay: "The map, smoothed, over the picture.",
    masks: "When each pixel is masked. Left: the most relevant first; right: the least relevant first. Dark is early, light is never.",
    mosaic: "The four pictures that share a mosaic, this sample outlined: relevance should lie in its quadrant.",
  };

  function enlarge() {
    const sample = samples[open], place = shown.indexOf(open);
    byId("large-title").replaceChildren(make("bdi", {}, titled(sample)));
    draw(byId("frame"), open, state.view, true);
    const over = byId("frame").querySelector(".over") !== null;
    byId("slider-field").hidden = !over;
    showFade();
    const missing = state.view === "overlay" && !over;
    byId("large-note").textContent = missing ? "No overlay: picture, map, or the part that the model saw is missing." : NOTES[state.view];
    byId("previous").disabled = place <= 0;
    byId("next").disabled = place < 0 || place >= shown.length - 1;
    byId("about").replaceChildren(...about(sample));
  }

  function about(sample) {
    const rows = [
      ["explained class", sample.target || "–"],
      ["probability", sample.probability === null ? "–" : `${(100 * sample.probability).toFixed(1)} %`],
      ["model says", sample.prediction || "–"],
      ["label", sample.label || "not told"],
      ["number", String(sample.index)],
    ];
    if (runs.length > 1) rows.push(["run", runs[sample.run]]);
    if (sample.state !== "done") rows.push(["state", sample.state]);
    if (sample.message) rows.push(["message", sample.message]);
    const told = make("dl", { class: "facts" }, ...rows.map(([name, value]) =>
      make("div", {}, make("dt", {}, name), make("dd", {}, make("bdi", {}, value)))));
    const head = make("tr", {}, make("th", { scope: "col" }, "Method"),
      ...scores.map((score) => make("th", { scope: "col", class: "number", title: score.words }, make("bdi", {}, score.title))));
    const body = methods.map((method, m) => {
      const found = sample.methods[m];
      const button = make("button", { type: "button", class: "link", "aria-pressed": String(m === state.method) }, make("bdi", {}, method.name));
      button.addEventListener("click", () => {
        controls.method.value = String(m);
        update();
        enlarge();
        byId("about").querySelectorAll("button.link")[m].focus();
      });
      const name = make("th", { scope: "row" }, button);
      if (!found) return make("tr", {}, name, make("td", { colSpan: scores.length }, "not in this run"));
      if (found.state === "failed") return make("tr", {}, name, make("td", { colSpan: scores.length, class: "words" }, make("bdi", {}, `failed: ${found.message}`)));
      const flags = found.flags.length ? make("span", { class: "badge", title: "where a score met 0/0 or can’t be told" }, found.flags.join(", ")) : null;
      name.append(...(flags ? [" ", flags] : []));
      return make("tr", { class: method.control ? "control" : "" }, name,
        ...found.scores.map((value) => make("td", { class: "number" }, written(value))));
    });
    const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
    return [told, make("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "Scores of this sample" }, table)];
  }

  // Keys

  function moveAmongCards(event) {
    const now = shown.indexOf(Number(event.target.closest("li")?.dataset.sample));
    if (now < 0) return;
    const across = shown.filter((k) => cards[k].item.offsetTop === cards[shown[0]].item.offsetTop).length;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across, Home: -now, End: shown.length - 1 - now };
    const place = now + steps[event.key];
    if (!(event.key in steps) || place < 0 || place >= shown.length) return;
    event.preventDefault();
    cards[shown[place]].button.focus();
  }

  function typed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const writes = event.target.matches("input:not([type=radio]):not([type=range]), select, textarea");
    if (!writes && VIEWS[event.key - 1]) choose(VIEWS[event.key - 1][0]);
    if (!writes && event.key === "/" && !dialog.open) {
      event.preventDefault();
      controls.search.focus();
    }
    if (dialog.open && !event.target.matches("input, select") && (event.key === "ArrowRight" || event.key === "ArrowLeft")) {
      event.preventDefault();
      step(event.key === "ArrowRight" ? 1 : -1);
    }
  }

  // Begin

  const classes = [...new Set(samples.flatMap((sample) => [sample.target, sample.label]).filter(Boolean))].sort((a, b) => a.localeCompare(b));
  option(controls.class, "", "all classes");
  classes.forEach((name, k) => option(controls.class, k, name));
  option(controls.run, "", "all runs");
  runs.forEach((name, k) => option(controls.run, k, name));
  byId("run-field").hidden = runs.length < 2;
  methods.forEach((method, m) => option(controls.method, m, method.control ? `${method.name} (chance)` : method.name));
  scores.forEach((score, k) => {
    const words = score.name.replaceAll("_", " ");
    option(controls.score, k, score.title.toLowerCase() === words ? score.title : `${score.title}: ${words}`);
  });
  const first = { method: methods.findIndex((m) => m.name === gallery.dataset.method), score: scores.findIndex((s) => s.name === facts.by) };
  const firstView = gallery.dataset.view;
  function reset() {
    controls.method.value = String(Math.max(first.method, 0));
    controls.score.value = String(Math.max(first.score, 0));
    controls.sort.value = "best";
  }
  reset();
  state.view = firstView;
  moveView.push(segments(byId("views"), "view", VIEWS, firstView, choose));
  moveView.push(segments(byId("large-views"), "large-view", VIEWS, firstView, choose));
  byId("bar").addEventListener("input", (event) => {
    if (event.target.type !== "radio") update();
  });
  byId("bar").addEventListener("submit", (event) => event.preventDefault());
  byId("bar").addEventListener("reset", () => setTimeout(() => {
    reset();
    choose(firstView);
    update();
  }));
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => cards[open].button.focus());
  closeOnBackdrop(dialog);
  list.addEventListener("keydown", moveAmongCards);
  document.addEventListener("keydown", typed);
  addEventListener("beforeprint", () => shown.forEach(refresh));
  cards.forEach((card) => watcher.observe(card.item));
  update();
  gallery.hidden = samples.length === 0;

  // Plots

  const plotDialog = byId("plot-large");
  for (const link of document.querySelectorAll("a.zoom")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const image = byId(link.dataset.zoom);
      Object.assign(byId("plot-image"), { src: image.src, alt: image.alt });
      plotDialog.showModal();
    });
  }
  byId("plot-close").addEventListener("click", () => plotDialog.close());
  closeOnBackdrop(plotDialog);
})();
