//! Draws a scene: a sky-to-ground gradient, texture on all scales, soft shapes, sensor noise.
//!
//! Natural images have about the same contrast in every octave of scale, which is what makes
//! them compress as they do; the texture is value noise with that spectrum. Only additions,
//! multiplications and comparisons are used, which give the same result on every processor, so
//! that the same seed is the same image everywhere.

use fastrand::Rng;

/// Half of the contrast of the coarsest texture, in grey levels of 0 to 255.
const TEXTURE: f32 = 34.0;
/// From octave to octave the contrast falls to this part.
const PERSISTENCE: f32 = 0.75;
/// The finest texture has cells of at least this many pixels.
const FINEST_CELL: f32 = 1.8;
/// Half of the width of the sensor's noise, in grey levels: a bright day to a dim evening.
const NOISE: std::ops::Range<f32> = 14.0..26.0;

type Rgb = [f32; 3];

/// Draws image number `index` of the series `seed`, three bytes a pixel.
pub(super) fn render(width: u32, height: u32, seed: u64, index: u64) -> Vec<u8> {
    // An odd multiplier spreads neighbouring numbers over all seeds.
    let mut rng = Rng::with_seed(seed ^ index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let scene = Scene::new(width as usize, height as usize, &mut rng);
    let row_bytes = width as usize * 3;
    let mut pixels = vec![0; row_bytes * height as usize];
    let mut row = Row::new(width as usize);
    for (y, out) in pixels.chunks_exact_mut(row_bytes).enumerate() {
        scene.draw_row(y, &mut row);
        row.develop(scene.noise, &mut rng, out);
    }
    pixels
}

/// One line of the image while it is drawn.
struct Row {
    color: Vec<Rgb>,
    /// Brightness that is added to all three colours.
    light: Vec<f32>,
}

impl Row {
    fn new(width: usize) -> Self {
        Self {
            color: vec![[0.0; 3]; width],
            light: vec![0.0; width],
        }
    }

    /// Adds the noise of a sensor and rounds to bytes.
    fn develop(&self, noise: f32, rng: &mut Rng, out: &mut [u8]) {
        let pixels = out.chunks_exact_mut(3).zip(&self.color).zip(&self.light);
        for ((out, color), light) in pixels {
            // The sum of four uniform bytes is close to a bell curve.
            let sum: u32 = rng
                .u32(..)
                .to_le_bytes()
                .iter()
                .map(|byte| u32::from(*byte))
                .sum();
            let grain = (sum as f32 - 510.0) * (noise / 510.0);
            for (out, channel) in out.iter_mut().zip(color) {
                *out = (channel + light + grain) as u8;
            }
        }
    }
}

struct Scene {
    width: f32,
    height: f32,
    /// Colours of the four corners.
    corners: [Rgb; 4],
    texture: Vec<Texture>,
    shapes: Vec<Shape>,
    noise: f32,
}

impl Scene {
    fn new(width: usize, height: usize, rng: &mut Rng) -> Self {
        let mut color = |low: f32, high: f32| -> Rgb {
            std::array::from_fn(|_| low + (high - low) * rng.f32())
        };
        let corners = [
            color(110.0, 230.0),
            color(110.0, 230.0),
            color(25.0, 140.0),
            color(25.0, 140.0),
        ];
        let side = width.max(height) as f32;
        let mut texture = Vec::new();
        let (mut cell, mut contrast) = (side / 4.0, TEXTURE);
        while cell >= FINEST_CELL {
            texture.push(Texture::new(width, cell, contrast, rng.u64(..)));
            cell /= 2.0;
            contrast *= PERSISTENCE;
        }
        let shapes = (0..rng.usize(6..14))
            .map(|_| Shape::random(width as f32, height as f32, rng))
            .collect();
        let noise = NOISE.start + (NOISE.end - NOISE.start) * rng.f32();
        Self {
            width: width as f32,
            height: height as f32,
            corners,
            texture,
            shapes,
            noise,
        }
    }

    fn draw_row(&self, y: usize, row: &mut Row) {
        let down = y as f32 / self.height;
        let [left, right] =
            [0, 1].map(|side| mix(self.corners[side], self.corners[side + 2], down));
        for (x, color) in row.color.iter_mut().enumerate() {
            *color = mix(left, right, x as f32 / self.width);
        }
        for shape in &self.shapes {
            shape.draw(y as f32, &mut row.color);
        }
        row.light.fill(0.0);
        for texture in &self.texture {
            texture.draw(y, &mut row.light);
        }
    }
}

/// Value noise of one scale: random values on a lattice, smoothly interpolated.
struct Texture {
    cell: f32,
    contrast: f32,
    seed: u64,
    /// For each pixel of a row: its lattice cell, and its smoothed place within it.
    columns: Vec<(u32, f32)>,
}

impl Texture {
    fn new(width: usize, cell: f32, contrast: f32, seed: u64) -> Self {
        let columns = (0..width).map(|x| place(x as f32 / cell)).collect();
        Self {
            cell,
            contrast,
            seed,
            columns,
        }
    }

    fn draw(&self, y: usize, light: &mut [f32]) {
        let (above, down) = place(y as f32 / self.cell);
        let cells = self.columns.last().map_or(0, |(cell, _)| *cell);
        let lattice: Vec<f32> = (0..=cells + 1)
            .map(|column| {
                let (top, bottom) = (self.value(column, above), self.value(column, above + 1));
                (top + (bottom - top) * down) * self.contrast
            })
            .collect();
        for (light, (cell, across)) in light.iter_mut().zip(&self.columns) {
            let (left, right) = (lattice[*cell as usize], lattice[*cell as usize + 1]);
            *light += left + (right - left) * across;
        }
    }

    /// A value from -1 to 1, determined by the seed and the lattice point (splitmix64).
    fn value(&self, column: u32, row: u32) -> f32 {
        let point = (u64::from(row) << 32) | u64::from(column);
        let mut bits = self.seed ^ point.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((bits >> 40) as f32) / ((1 << 23) as f32) - 1.0
    }
}

/// Lattice cell of a coordinate, and the smoothed place within the cell.
fn place(at: f32) -> (u32, f32) {
    let cell = at as u32;
    let within = at - cell as f32;
    (cell, within * within * (3.0 - 2.0 * within))
}

fn mix(from: Rgb, to: Rgb, part: f32) -> Rgb {
    std::array::from_fn(|channel| from[channel] + (to[channel] - from[channel]) * part)
}

#[derive(Clone, Copy)]
enum Form {
    Ellipse,
    Rectangle,
}

/// An object in front of the background.
struct Shape {
    form: Form,
    x: f32,
    y: f32,
    half_width: f32,
    half_height: f32,
    color: Rgb,
    opacity: f32,
    /// How fast it fades at its edge.
    sharpness: f32,
}

impl Shape {
    fn random(width: f32, height: f32, rng: &mut Rng) -> Self {
        let side = width.min(height).max(2.0);
        let mut size = || side * (0.03 + 0.2 * rng.f32() * rng.f32());
        let (half_width, half_height) = (size(), size());
        Self {
            form: if rng.bool() {
                Form::Ellipse
            } else {
                Form::Rectangle
            },
            x: width * rng.f32(),
            y: height * rng.f32(),
            half_width,
            half_height,
            color: std::array::from_fn(|_| 20.0 + 215.0 * rng.f32()),
            opacity: 0.5 + 0.5 * rng.f32(),
            sharpness: 2.0 + 30.0 * rng.f32(),
        }
    }

    fn draw(&self, y: f32, row: &mut [Rgb]) {
        let down = (y - self.y) / self.half_height;
        if !(-1.0..=1.0).contains(&down) {
            return;
        }
        let from = (self.x - self.half_width).max(0.0) as usize;
        let to = ((self.x + self.half_width) as usize + 1).min(row.len());
        for (x, color) in row.iter_mut().enumerate().take(to).skip(from) {
            let across = (x as f32 - self.x) / self.half_width;
            let (across, down) = (across * across, down * down);
            let distance = match self.form {
                Form::Ellipse => across + down,
                Form::Rectangle => across.max(down),
            };
            let cover = ((1.0 - distance) * self.sharpness).clamp(0.0, 1.0) * self.opacity;
            *color = mix(*color, self.color, cover);
        }
    }
}
