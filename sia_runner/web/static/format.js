// Figures as people read them.

export function interval(score) {
  if (!score) return "–";
  const bounds = score.ci95 ? ` [${score.ci95.map((bound) => bound.toFixed(3)).join(", ")}]` : "";
  return `${score.value.toFixed(3)}${bounds}`;
}

export function dollars(usd) {
  if (usd === null || usd === undefined) return "not known";
  return usd !== 0 && usd < 0.1 ? `$${usd.toFixed(4)}` : `$${usd.toFixed(2)}`;
}

export function count(number) {
  return number === null || number === undefined ? "–" : number.toLocaleString("en");
}

export function seconds(total) {
  if (total === null || total === undefined) return "–";
  if (total < 90) return `${total.toFixed(1)} s`;
  return total < 5400 ? `${(total / 60).toFixed(1)} min` : `${(total / 3600).toFixed(1)} h`;
}

export function when(unix) {
  const ago = Date.now() / 1000 - unix;
  if (ago < 60) return "now";
  if (ago < 3600) return `${Math.floor(ago / 60)} min ago`;
  return new Date(unix * 1000).toISOString().slice(0, 16).replace("T", " ");
}

export function bytes(size) {
  return size < 1024 ? `${size} B` : size < 1 << 20 ? `${(size / 1024).toFixed(1)} KiB` : `${(size / (1 << 20)).toFixed(1)} MiB`;
}
