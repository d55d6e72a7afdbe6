// Numbers as people read them.

export const percent = (x) =>
  (x > 0.9995 && x < 1 ? "> 99.9" : x < 0.001 && x > 0 ? "< 0.1" : (100 * x).toFixed(1)) + " %";

export const short = (x) => (Math.abs(x) >= 1e5 || (x !== 0 && Math.abs(x) < 1e-4) ? x.toExponential(2)
  : +x.toPrecision(4) + "").replace(/^-/, "\u2212");

// How many calibration images an answer was compared with: those of its class where that has a threshold of its own.
const compared = (calibration, label) =>
  calibration.class_intervals[label] ? calibration.class_counts[label] : calibration.n;

export function rarity(answer, calibration) {
  if (answer.p_value === null) return "Without calibration a score has no scale";
  return inWords(answer.p_value, compared(calibration, answer.label));
}

// A p-value in words; n: how many images it comes from, where that is known.
export function inWords(p, n) {
  if (n && p <= 1.5 / (n + 1)) return `Stranger than every one of the ${n} calibration images`;
  if (p < 0.1) return `1 in ${Math.round(1 / p)} ordinary images looks this strange`;
  if (p < 0.5) return `${Math.round(100 * p)} in 100 ordinary images look this strange`;
  if (p > 0.995) return "Practically every ordinary image looks this strange";
  return `Most ordinary images (${Math.round(100 * p)} in 100) look this strange`;
}

export function driftWords(drift) {
  const often = `${drift.images} ${drift.images === 1 ? "image" : "images"}`;
  if (drift.alarm) return `Drift: unlike the calibration images; the alarm was raised at image ${drift.alarm_at}`;
  return drift.images ? `No drift found in ${often}` : "No images yet";
}
