"use strict";
(() => {
  const PAGE = matchMedia("(max-width: 40rem)").matches ? 24 : 48;
  const SHARES = ["success", "identity_kept", "success_and_identity"];
  const ZOOMS = [1, 1.5, 2, 3, 4, 6, 8];
  const data = JSON.parse(document.getElementById("pairs").textContent);
  const { rows, texts, faces, edits } = data;
  const tile = parseInt(getComputedStyle(document.documentElement).getPropertyValue("--tile"), 10);
  const byId = (id) => document.getElementById(id);
  const form = byId("filters");
  const viewer = byId("viewer");
  const stage = byId("stage");
  const placeOf = new Map(rows.pair_id.map((id, place) => [id, place]));

  let found = []; // places of the rows that pass the filters, in their order
  let page = 0;
  let open = -1; // place of the pair in the viewer
  let zoom = 0;

  function element(tag, attributes = {}, ...children) {
    const made = Object.assign(document.createElement(tag), attributes);
    made.append(...children);
    return made;
  }

  const oneLine = (text) => (text.length > 90 ? text.slice(0, 90) + "…" : text).replace(/\s+/g, " ");
  const number = (value) => (value === null ? "–" : String(+value.toPrecision(3)));
  // Scores stand above each other: each has its decimals, zeros too.
  const fixed = (value) => (value === null ? "–" : value.toFixed(Math.abs(value) < 10 ? 2 : 1).replace(/^-(?=[0.]+$)/, ""));
  const score = (name, place) => {
    const value = rows[name]?.[place] ?? null;
    return SHARES.includes(name) && value !== null ? ["no", "yes"][value] : fixed(value);
  };
  const title = (name) => name.replaceAll("_", " ");
  const text = (name, place) => texts[name][rows[name][place]];

  // Filters and order

  function fillForm() {
    const add = (name, entries) =>
      form.elements[name].append(...entries.map(([value, label]) => element("option", { value }, label)));
    add("prompt", texts.target_prompt.map((prompt) => [prompt, oneLine(prompt)]));
    add("method", texts.method.map((name) => [name, name]));
    add("status", texts.status.map((name) => [name, name]));
    const alphas = [...new Set(rows.alpha)].filter((alpha) => alpha !== null).sort((a, b) => a - b);
    add("alpha", alphas.map((alpha) => [alpha, alpha]));
    add("score", [...data.scores, "seconds"].map((name) => [name, title(name)]));
    if (data.scores.includes("directional_edit")) form.elements.score.value = "directional_edit";
    for (const option of form.elements.score.selectedOptions) option.defaultSelected = true;
    // A run's name stands in addresses, its number would mean another run in another report.
    add("before", data.others.map(({ name }) => ["run " + name, name]));
  }

  function passes(filters) {
    const given = (name) => filters.get(name) ?? "";
    const low = given("low") === "" ? -Infinity : Number(given("low"));
    const high = given("high") === "" ? Infinity : Number(given("high"));
    const bounded = low > -Infinity || high < Infinity;
    const scores = rows[given("score")] ?? [];
    const same = (name, column) => given(name) === "" || String(column) === given(name);
    return (place) =>
      same("prompt", text("target_prompt", place)) &&
      same("method", text("method", place)) &&
      same("status", text("status", place)) &&
      same("alpha", rows.alpha[place]) &&
      faces[rows.face[place]][0].includes(given("face")) &&
      (!bounded || (scores[place] !== null && scores[place] >= low && scores[place] <= high));
  }

  function select() {
    const filters = new FormData(form);
    found = [...rows.pair_id.keys()].filter(passes(filters));
    const scores = rows[filters.get("score")] ?? [];
    const sign = { up: 1, down: -1 }[filters.get("order")];
    if (sign) {
      // Pairs without the score come last, whichever way the others are ordered.
      const key = (place) => (scores[place] ?? null) === null ? Infinity : sign * scores[place];
      found.sort((a, b) => key(a) - key(b) || a - b);
    }
  }

  /** The picture that an edit is shown beside, and what it is called. */
  function before(place) {
    const wanted = form.elements.before.value;
    const other = data.others.find(({ name }) => "run " + name === wanted);
    if (other) return [other.edits[place], other.name];
    return [faces[rows.face[place]][wanted === "inversion" ? 2 : 1], wanted];
  }

  // Cards

  function picture(values, alt) {
    if (!values) return element("span", { className: "absent" }, alt);
    const [src, , side] = values;
    const made = element("img", { src, alt: "", width: tile, height: tile, loading: "lazy", decoding: "async" });
    made.className = side < tile ? "crisp" : "";
    return made;
  }

  function card(place) {
    const face = faces[rows.face[place]];
    const status = text("status", place);
    const shown = form.elements.score.value;
    const why = status === "ok" ? "no picture" : `${title(status)}: ${oneLine(text("error", place))}`;
    return element("li", {}, element("a", { className: "card", href: "#pair=" + encodeURIComponent(rows.pair_id[place]) },
      element("div", { className: "pair" }, picture(before(place)[0], "no picture"), picture(edits[place], why)),
      element("bdi", { className: "prompt-text" }, text("target_prompt", place)),
      element("div", { className: "meta" }, element("span", {}, `${text("method", place)} α ${number(rows.alpha[place])}`),
        element("span", {}, `${title(shown)} ${score(shown, place)}`)),
      element("div", { className: "meta" }, element("span", {}, face[0]))));
  }

  function render() {
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    byId("cards").replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(card));
    byId("count").textContent = `${found.length.toLocaleString("en")} of ${rows.pair_id.length.toLocaleString("en")} pairs`;
    byId("page-number").textContent = `page ${page + 1} of ${pages}`;
    for (const id of ["first", "back"]) byId(id).disabled = page === 0;
    for (const id of ["next", "last"]) byId(id).disabled = page === pages - 1;
  }

  function turn(to) {
    page = to;
    render();
    byId("filters").scrollIntoView();
  }

  // Viewer

  function load(img, values, name) {
    img.hidden = !values;
    if (!values) return;
    const [thumb, full] = values;
    img.alt = name;
    img.src = thumb;
    img.dataset.full = full ?? "";
    if (!full) return;
    const whole = new Image();
    whole.onload = () => {
      if (img.dataset.full === full) img.src = full;
    };
    whole.src = full;
  }

  function show(place) {
    open = place;
    history.replaceState(null, "", address(rows.pair_id[place]));
    const [picture, name] = before(place);
    load(byId("before"), picture, name);
    load(byId("after"), edits[place], "edited");
    byId("absent").textContent = edits[place] ? "" : `${title(text("status", place))}: ${text("error", place)}`;
    stage.hidden = !picture && !edits[place];
    byId("toggle-before").textContent = "Before: " + name;
    viewer.querySelector("h2 bdi").textContent = text("target_prompt", place);
    byId("details").replaceChildren(...details(place));
    const at = found.indexOf(place);
    byId("previous-pair").disabled = at <= 0;
    byId("next-pair").disabled = at < 0 || at === found.length - 1;
    if (!viewer.open) viewer.showModal();
    size();
  }

  function details(place) {
    const entries = [
      ["face", faces[rows.face[place]][0]], ["from", text("neutral_prompt", place)],
      ["method", text("method", place)], ["α", number(rows.alpha[place])],
      ["β", rows.beta[place]], ["channels", rows.num_channels[place]],
      ["status", title(text("status", place))], ["seconds", rows.seconds[place] && fixed(rows.seconds[place])],
      ...data.scores.map((name) => [title(name), score(name, place)]),
      ["options", text("options", place)], ["error", text("error", place)], ["pair", rows.pair_id[place]],
    ].filter(([, value]) => value !== null && value !== "");
    const made = entries.map(([name, value]) => element("div", { className: String(value).length > 14 ? "wide" : "" },
      element("dt", {}, name), element("dd", {}, element("bdi", {}, String(value)))));
    const [, source, inversion] = faces[rows.face[place]];
    const links = [["source", source], ["inversion", inversion], ["edited", edits[place]]]
      .filter(([, values]) => values?.[1])
      .map(([name, values]) => element("a", { href: values[1], target: "_blank", rel: "noopener" }, name));
    if (links.length) {
      made.push(element("div", { className: "wide" }, element("dt", {}, "full size"),
        element("dd", {}, ...links.flatMap((link) => [link, " "]))));
    }
    return made;
  }

  /** Fit the picture into the window; one of few pixels grows by whole multiples, to stay even. */
  function size() {
    const shown = { before: before(open)[0], after: edits[open] };
    const side = (shown.after ?? shown.before ?? [0, 0, 1])[2];
    const room = Math.max(128, Math.min(byId("stage-scroll").clientWidth, innerHeight * 0.62));
    const fit = side < room ? side * Math.floor(room / side) : room;
    const pixels = fit * ZOOMS[zoom];
    stage.style.setProperty("--side", pixels + "px");
    stage.classList.toggle("enlarged", zoom > 0);
    for (const [id, values] of Object.entries(shown)) {
      byId(id).classList.toggle("crisp", Boolean(values) && pixels >= 2 * values[2]);
    }
    byId("zoom").textContent = zoom ? `${ZOOMS[zoom]}×` : "fit";
    byId("zoom-out").disabled = zoom === 0;
    byId("zoom-in").disabled = zoom === ZOOMS.length - 1;
  }

  function zoomTo(step) {
    const view = byId("stage-scroll");
    const middle = [view.scrollLeft + view.clientWidth / 2, view.scrollTop + view.clientHeight / 2];
    const was = ZOOMS[zoom];
    zoom = Math.min(Math.max(step, 0), ZOOMS.length - 1);
    size();
    const [x, y] = middle.map((at) => (at * ZOOMS[zoom]) / was);
    view.scrollTo(x - view.clientWidth / 2, y - view.clientHeight / 2);
  }

  function split(percent) {
    byId("split").value = percent;
    stage.style.setProperty("--split", percent + "%");
  }

  function drag(event) {
    // A finger moves an enlarged picture; the slider below it stays.
    if (event.buttons !== 1 || (zoom && event.pointerType === "touch")) return;
    const box = stage.getBoundingClientRect();
    split(Math.min(100, Math.max(0, Math.round((100 * (event.clientX - box.left)) / box.width))));
  }

  function step(by) {
    const next = found[found.indexOf(open) + by];
    if (next !== undefined) show(next);
  }

  function toggleBefore() {
    const choice = form.elements.before;
    choice.selectedIndex = (choice.selectedIndex + 1) % choice.options.length;
    render();
    show(open);
  }

  // The address names the filters and the open pair, so that a link shows what its sender saw.

  function usual(field) {
    const options = [...(field.options ?? [])];
    return (options.find((option) => option.defaultSelected) ?? options[0])?.value ?? field.defaultValue;
  }

  function address(pair) {
    const given = [...new FormData(form)].filter(([name, value]) => value !== usual(form.elements[name]));
    if (pair) given.push(["pair", pair]);
    return "#" + new URLSearchParams(given);
  }

  function setField(field, value) {
    const options = [...(field.options ?? [])];
    // Number("") is 0, which is a strength.
    const numeric = options.filter((option) => value !== "" && option.value !== "");
    const equal = numeric.find((option) => Number(option.value) === Number(value));
    field.value = equal ? equal.value : value;
  }

  function follow() {
    const given = new URLSearchParams(location.hash.slice(1));
    const names = [...given.keys()].filter((name) => form.elements[name]);
    const was = address();
    if (names.length) {
      for (const field of form.elements) {
        if (field.name) setField(field, given.get(field.name) ?? usual(field));
      }
    }
    const moved = address() !== was;
    if (moved) refresh();
    const place = placeOf.get(given.get("pair"));
    if (place !== undefined) show(place);
    else if (viewer.open) viewer.close();
    else if (moved) byId("gallery").scrollIntoView();
  }

  function refresh() {
    page = 0;
    select();
    render();
  }

  function changed() {
    refresh();
    history.replaceState(null, "", address());
  }

  function press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const sliding = event.target === byId("split");
    const actions = {
      ArrowLeft: () => step(-1), ArrowRight: () => step(1), b: toggleBefore,
      "+": () => zoomTo(zoom + 1), "-": () => zoomTo(zoom - 1), 0: () => zoomTo(0),
    };
    const action = actions[event.key];
    if (!action || (sliding && event.key.startsWith("Arrow"))) return;
    event.preventDefault();
    action();
  }

  // Where a strip is wider than the window, show the edit that it is about.
  for (const film of document.querySelectorAll(".film")) {
    const chosen = film.querySelector(".chosen");
    film.scrollLeft = chosen.offsetLeft + chosen.offsetWidth - film.offsetLeft - film.clientWidth;
    // What goes on beyond an edge fades there.
    const fade = () => {
      const rest = film.scrollWidth - film.clientWidth - film.scrollLeft;
      film.style.setProperty("--before", film.scrollLeft > 4 ? "2rem" : "0px");
      film.style.setProperty("--after", rest > 4 ? "2rem" : "0px");
    };
    film.addEventListener("scroll", fade, { passive: true });
    new ResizeObserver(fade).observe(film);
  }
  fillForm();
  select();
  render();
  split(50);
  form.addEventListener("input", changed);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(changed));
  byId("first").addEventListener("click", () => turn(0));
  byId("back").addEventListener("click", () => turn(page - 1));
  byId("next").addEventListener("click", () => turn(page + 1));
  byId("last").addEventListener("click", () => turn(Infinity));
  byId("close").addEventListener("click", () => viewer.close());
  byId("previous-pair").addEventListener("click", () => step(-1));
  byId("next-pair").addEventListener("click", () => step(1));
  byId("toggle-before").addEventListener("click", toggleBefore);
  byId("zoom-in").addEventListener("click", () => zoomTo(zoom + 1));
  byId("zoom-out").addEventListener("click", () => zoomTo(zoom - 1));
  byId("split").addEventListener("input", (event) => split(event.target.value));
  byId("copy").hidden = !navigator.clipboard;
  byId("copy").addEventListener("click", async () => {
    await navigator.clipboard.writeText(location.href);
    byId("copy").textContent = "Copied";
    setTimeout(() => (byId("copy").textContent = "Copy link"), 1500);
  });
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    drag(event);
  });
  stage.addEventListener("pointermove", drag);
  viewer.addEventListener("keydown", press);
  viewer.addEventListener("close", () => history.replaceState(null, "", address()));
  addEventListener("resize", () => viewer.open && size());
  addEventListener("hashchange", follow);
  follow();
})();
