// The page: images in, what the guard saw out. Everything is written as text nodes, nothing as HTML.
import { evidence, histogram } from "./charts.js";
import { address, onTokenNeeded, request } from "./service.js";
import { driftWords, inWords, percent, rarity, short } from "./words.js";

const AT_ONCE = 3;  // requests
const DRIFT_MS = 5000;
const $ = (id) => document.getElementById(id);
const items = [], waiting = [];
let card = null, shown = null, busy = 0, drift = null;

function element(tag, kind = "", ...content) {
  const node = document.createElement(tag);
  if (kind) node.className = kind;
  node.append(...content);
  return node;
}

function bar(share, kind = "") {
  const inside = element("div");
  inside.style.width = 100 * share + "%";
  return element("div", "bar " + kind, inside);
}

function complain(sentence) {
  $("error").textContent = sentence;
  $("error").hidden = !sentence;
}

// ------------------------------------------------------------------------------------------------ the model

async function describe() {
  card = await request("model");
  const names = card.class_names, few = names.slice(0, 12).join(", "), calibration = card.calibration;
  $("model").textContent = card.identity;
  $("about").textContent = `It was trained on ${names.length} classes: ${few}${names.length > 12 ? " …" : ""}. `
    + (calibration
      ? `Images unlike those are flagged; the threshold is set to flag at most ${+(100 * calibration.alpha).toFixed(2)} % `
        + "of ordinary images by mistake."
      : "This guard was not calibrated: it gives scores and flags nothing.");
  const p = card.preprocess, parts = card.score_options.parts;
  const facts = {
    "identity": card.identity, "method": card.method, "backbone": card.backbone, "head": card.head,
    "score": parts ? parts.join(" + ") : card.score, "input": `${p.width} × ${p.height} × ${p.channels}`,
    "precision": card.precision, "made": card.created.slice(0, 10),
    "threshold": calibration ? short(calibration.threshold) : "none",
    "calibration images": calibration ? calibration.n : "none",
    "false alarms": calibration ? `at most ${percent(calibration.alpha)}; 95 % interval of what is realised `
      + `${percent(calibration.rate_low)} to ${percent(calibration.rate_high)}` : "unknown",
    "training data": card.data.map((d) => `${d.name} (${d.images} images)`).join(", "),
    ...Object.fromEntries(Object.entries(card.metrics).map(([name, x]) => [name.replaceAll("_", " "), short(x)])),
    "classes": names.join(", "),
  };
  $("card").replaceChildren(...Object.entries(facts).filter(([, fact]) => fact !== "")
    .flatMap(([name, fact]) => [element("dt", "", name), element("dd", "", String(fact))]));
}

// ------------------------------------------------------------------------------------------------ images

function take(files) {
  const images = [...files];
  if (!images.length) return;
  complain("");
  for (const file of images) {
    const item = { file, name: file.name || "pasted image", url: URL.createObjectURL(file), order: items.length,
      answer: null, failure: "" };
    items.push(item);
    waiting.push(item);
  }
  $("gallery").hidden = false;
  arrange();
  work();
}

function work() {
  while (busy < AT_ONCE && waiting.length) {
    const item = waiting.shift();
    busy++;
    check(item).finally(() => {
      busy--;
      progress();
      work();
    });
  }
  progress();
}

async function check(item) {
  try {
    if (!card) await describe();
    item.explanation = await request("explain", { method: "POST", body: item.file });
    item.answer = item.explanation.answer;
  } catch (error) {
    item.failure = error.message;
    complain(items.length > 1 ? `${item.name}: ${error.message}` : error.message);
  }
  arrange();
  if (item.answer && (!shown || !busy || item.order > shown.order)) show(item);
}

function progress() {
  const left = busy + waiting.length, done = items.filter((item) => item.answer), odd = done.filter((i) => i.answer.is_ood);
  $("status").textContent = left ? `${left} of ${items.length} images to go …`
    : done.length ? `${done.length} ${done.length === 1 ? "image" : "images"} checked, ${odd.length} flagged.` : "";
}

const ORDERS = {
  newest: (a, b) => b.order - a.order,
  strange: (a, b) => b.answer.ood_score - a.answer.ood_score,
  familiar: (a, b) => a.answer.ood_score - b.answer.ood_score,
};

function arrange() {
  const by = $("sort").value, focused = document.activeElement?.item;
  const scored = items.filter((item) => item.answer), others = items.filter((item) => !item.answer);
  const ordered = by === "newest" ? [...items].sort(ORDERS.newest) : [...scored.sort(ORDERS[by]), ...others];
  $("tiles").replaceChildren(...ordered.map((item) => element("li", "", tile(item))));
  if (focused) focused.button.focus();
}

function tile(item) {
  const { answer } = item, state = item.failure ? "failed" : answer?.is_ood ? "bad" : "";
  const button = item.button ||= element("button");
  const image = button.querySelector("img") || picture(item.url, "");
  button.type = "button";
  button.item = item;
  button.className = state;
  button.disabled = !answer;
  button.setAttribute("aria-pressed", String(item === shown));
  button.replaceChildren(image,
    element("span", "flag", item.failure ? "not an answer" : !answer ? "waiting …" : answer.is_ood ? "▲ flagged" : "✓ familiar"),
    element("span", "", answer ? answer.class_name : item.name),
    element("span", "soft", answer ? short(answer.ood_score) : item.failure));
  button.onclick = () => show(item);
  return button;
}

function picture(url, alt) {
  const image = document.createElement("img");
  image.onload = () => image.classList.toggle("tiny", image.naturalWidth < 128);
  image.onerror = () => image.removeAttribute("src");
  image.alt = alt;
  image.src = url;
  return image;
}

function show(item) {
  const { answer, explanation } = item, flagged = answer.is_ood, before = shown;
  shown = item;
  for (const other of [before, item]) other?.button.setAttribute("aria-pressed", String(other === item));
  const image = picture(item.url, "The image that was checked");
  image.id = "image";
  $("image").replaceWith(image);
  $("name").textContent = item.name;
  $("verdict").className = "verdict " + (flagged ? "bad" : "good");
  $("sign").setAttribute("d", flagged ? "M12 4 2.8 20h18.4ZM12 10v4.5M12 17.3v.1" : "m4.5 12.5 5 5 10-11");
  $("headline").textContent = flagged ? "Unfamiliar: flagged as out-of-distribution" : "Familiar: not flagged";
  $("meaning").textContent = flagged
    ? "This is unlike the images that the classifier was trained on. The classes below are guesses."
    : answer.threshold === null ? "This guard has no threshold yet." : "This is like the images that the classifier was trained on.";
  $("top").replaceChildren(...explanation.top.map((top) => element("li", "",
    element("div", "label", element("span", "", top.class_name), element("span", "", percent(top.probability))),
    bar(top.probability, flagged ? "guess" : ""))));
  $("rarity").textContent = rarity(answer, card.calibration);
  $("numbers").textContent = `Score ${short(answer.ood_score)}`
    + (answer.threshold === null ? "" : `, flagged above ${short(answer.threshold)}`) + "; higher is more out-of-distribution."
    + (answer.p_value === null ? "" : ` p-value ${short(answer.p_value)}.`);
  explain(explanation, flagged);
  $("result").hidden = false;
  draw();
}

function explain({ parts, nearest }, flagged) {
  $("why").hidden = !parts.length;
  $("why-title").textContent = (flagged ? "Why: each" : "Each") + " part of the score by itself";
  $("parts").replaceChildren(...parts.map((part) => element("li", "",
    element("div", "label", element("span", "", part.score), element("span", "", inWords(part.p_value))),
    bar(Math.min(1, -Math.log10(part.p_value) / 4), flagged && part.p_value < 0.05 ? "odd" : "guess"))));
  $("near").hidden = !nearest.length;
  $("exemplars").replaceChildren(...nearest.map((one) => element("li", "",
    picture("data:image/jpeg;base64," + one.jpeg_base64, "An ordinary image of class " + one.class_name),
    element("span", "", one.class_name))));
}

function draw() {
  if (shown) histogram($("chart"), shown.answer, card.calibration);
  if (drift) evidence($("curve"), drift);
}

// ------------------------------------------------------------------------------------------------ all traffic

async function watch() {
  try {
    if (!document.hidden) {
      drift = await request("drift");
      $("traffic").hidden = false;
      traffic();
    }
  } catch (error) {
    if (error.status === 404) return;  // no drift test runs here
  }
  setTimeout(watch, DRIFT_MS);
}

function traffic() {
  const rate = (x) => (x === null ? "–" : percent(x));
  $("drift-words").textContent = driftWords(drift);
  $("drift-words").className = drift.alarm ? "bad" : "";
  $("late").textContent = rate(drift.late_flag_rate);
  $("rate").textContent = rate(drift.flag_rate);
  $("images").textContent = drift.images;
  $("interval").textContent = drift.images ? `(${percent(drift.flag_rate_low)} to ${percent(drift.flag_rate_high)})` : "";
  $("alpha").textContent = percent(drift.alpha);
  const classes = drift.classes.filter((c) => c.images).sort((a, b) => b.images - a.images).slice(0, 50);
  $("by-class").hidden = !classes.length;
  $("class-rows").replaceChildren(...classes.map((c) => {
    const name = element("th", "", c.class_name), interval = `${percent(c.flag_rate_low)} to ${percent(c.flag_rate_high)}`;
    name.scope = "row";
    return element("tr", "", name, ...[c.images, `${c.flagged} (${rate(c.flag_rate)})`, interval]
      .map((text) => element("td", "", String(text))));
  }));
  evidence($("curve"), drift);
}

// ------------------------------------------------------------------------------------------------ ways in

function tokenAsked(sentence) {
  const form = $("token-form");
  form.hidden = false;
  complain(sentence);
  $("token").focus();
  return new Promise((given) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      form.hidden = true;
      complain("");
      given($("token").value);
      $("token").value = "";
    };
  });
}

async function openCamera() {
  try {
    $("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    $("viewfinder").hidden = false;
    $("shoot").focus();
  } catch (error) {
    complain("the camera cannot be used: " + error.message);
  }
}

function closeCamera() {
  for (const track of $("video").srcObject?.getTracks() ?? []) track.stop();
  $("video").srcObject = null;
  $("viewfinder").hidden = true;
  $("camera").focus();
}

function shoot() {
  const video = $("video"), canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => blob && take([new File([blob], "camera.jpg", { type: "image/jpeg" })]), "image/jpeg", 0.92);
}

onTokenNeeded(tokenAsked);
$("curl").textContent = `curl -F image=@photo.jpg ${address}predict`;
$("file").addEventListener("change", (event) => { take(event.target.files); event.target.value = ""; });
$("sort").addEventListener("change", arrange);
$("camera").hidden = !navigator.mediaDevices?.getUserMedia;
$("camera").addEventListener("click", openCamera);
$("close-camera").addEventListener("click", closeCamera);
$("shoot").addEventListener("click", shoot);
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files);
  });
}
document.addEventListener("paste", (event) => take(event.clipboardData.files));
new ResizeObserver(draw).observe($("result"));
new ResizeObserver(draw).observe($("traffic"));
describe().catch((error) => complain(error.message));
watch();
