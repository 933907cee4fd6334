"use strict";
// Draw attention: smooth the weights on a G×G grid as in Xu et al. 2015 (figure 3), colour the
// image orange where they are high, and darken the rest a little.
const attention = (() => {
  const MASK = 32;
  const SHADOW = 0.35;
  const GLOW = 0.6;
  const ORANGE = [255, 140, 0];
  const kernels = new Map();
  function kernel(side) { // Gaussian, [MASK][side]; rows sum to 1, to avoid a dark border
    if (!kernels.has(side)) {
      kernels.set(side, Array.from({ length: MASK }, (_, u) => {
        const x = (u + 0.5) / MASK * side - 0.5;
        const k = Array.from({ length: side }, (_, j) => Math.exp(-2 * (x - j) ** 2));
        const sum = k.reduce((a, b) => a + b);
        return k.map((value) => value / sum);
      }));
    }
    return kernels.get(side);
  }

  const mask = Object.assign(document.createElement("canvas"), { width: MASK, height: MASK });
  function drawMask(weights) {
    const side = Math.sqrt(weights.length);
    const k = kernel(side);
    const across = k.map((ku) => Array.from({ length: side }, (_, y) =>
      ku.reduce((sum, value, x) => sum + value * weights[y * side + x], 0)));
    const smooth = new Float32Array(MASK * MASK);
    let peak = 1e-9;
    for (let v = 0; v < MASK; v++) {
      for (let u = 0; u < MASK; u++) {
        let value = 0;
        for (let y = 0; y < side; y++) value += k[v][y] * across[u][y];
        smooth[v * MASK + u] = value;
        peak = Math.max(peak, value);
      }
    }
    const context = mask.getContext("2d", { willReadFrequently: true });
    const pixels = context.createImageData(MASK, MASK);
    smooth.forEach((value, i) => { // orange over black, as one colour
      const glow = GLOW * value / peak;
      const alpha = 1 - (1 - glow) * (1 - SHADOW * (1 - value / peak));
      pixels.data.set([...ORANGE.map((c) => c * glow / alpha), 255 * alpha], 4 * i);
    });
    context.putImageData(pixels, 0, 0);
  }

  function shade(canvas, weights, image) {
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (image) context.drawImage(image, 0, 0, canvas.width, canvas.height);
    drawMask(weights);
    context.drawImage(mask, 0, 0, canvas.width, canvas.height);
  }

  // Draw the image, if given, and the weights (G·G, any scale) over it.
  return { shade };
})();
