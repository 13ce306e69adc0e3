//! A small picture and the few shapes that are drawn into it, edges smoothed by their distance.

use std::{io::Write as _, ops::Range};

use flate2::{Compression, write::ZlibEncoder};

use crate::png::{Chunk, Png};

/// Red, green and blue, each from 0 to 1, as screens show them (sRGB).
#[derive(Debug, Clone, Copy)]
pub(super) struct Colour([f32; 3]);

impl Colour {
    pub(super) const WHITE: Self = Self([1.0, 1.0, 1.0]);

    /// From lightness, chroma and hue in degrees: hues of equal lightness look equally light (Ottosson 2020, Oklab).
    pub(super) fn oklch(lightness: f64, chroma: f64, hue: f64) -> Self {
        let (sine, cosine) = hue.to_radians().sin_cos();
        let (a, b) = (chroma * cosine, chroma * sine);
        let long = (lightness + 0.396_337_777_4 * a + 0.215_803_757_3 * b).powi(3);
        let medium = (lightness - 0.105_561_345_8 * a - 0.063_854_172_8 * b).powi(3);
        let short = (lightness - 0.089_484_177_5 * a - 1.291_485_548 * b).powi(3);
        let linear = [
            4.076_741_662_1 * long - 3.307_711_591_3 * medium + 0.230_969_929_2 * short,
            -1.268_438_004_6 * long + 2.609_757_401_1 * medium - 0.341_319_396_5 * short,
            -0.004_196_086_3 * long - 0.703_418_614_7 * medium + 1.707_614_701 * short,
        ];
        Self(linear.map(|light| {
            let light = light.clamp(0.0, 1.0);
            let shown = if light <= 0.003_130_8 { 12.92 * light } else { 1.055 * light.powf(1.0 / 2.4) - 0.055 };
            shown as f32
        }))
    }

    fn mix(self, other: Self, share: f32) -> Self {
        let mut mixed = self.0;
        for (mine, theirs) in mixed.iter_mut().zip(other.0) {
            *mine += (theirs - *mine) * share;
        }
        Self(mixed)
    }
}

/// A part of the picture, in pixels.
#[derive(Debug, Clone, Copy)]
struct Area {
    left: f32,
    top: f32,
    right: f32,
    bottom: f32,
}

impl Area {
    fn around(centre: (f32, f32), radii: (f32, f32)) -> Self {
        Self {
            left: centre.0 - radii.0,
            top: centre.1 - radii.1,
            right: centre.0 + radii.0,
            bottom: centre.1 + radii.1,
        }
    }

    /// The columns that it touches.
    fn columns(self, width: usize) -> Range<usize> {
        let left = (self.left - 1.0).max(0.0) as usize;
        left..((self.right + 2.0).max(0.0) as usize).min(width)
    }
}

/// A picture in the making.
pub(super) struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<Colour>,
}

impl Canvas {
    pub(super) fn new(width: usize, height: usize) -> Self {
        Self { width, height, pixels: vec![Colour::WHITE; width * height] }
    }

    /// Lays `colour` over each pixel of a box as far as `share` says at its middle.
    fn blend(&mut self, within: Area, colour: Colour, share: impl Fn(f32, f32) -> f32) {
        let columns = within.columns(self.width);
        for (y, row) in self.pixels.chunks_mut(self.width).enumerate() {
            let y = y as f32 + 0.5;
            if y < within.top - 1.0 || y > within.bottom + 1.0 {
                continue;
            }
            for (x, pixel) in row.iter_mut().enumerate().take(columns.end).skip(columns.start) {
                *pixel = pixel.mix(colour, share(x as f32 + 0.5, y));
            }
        }
    }

    /// From the upper left to the lower right corner.
    pub(super) fn gradient(&mut self, from: Colour, to: Colour) {
        let (width, height) = (self.width as f32, self.height as f32);
        self.pixels.fill(from);
        self.blend(Area { left: 0.0, top: 0.0, right: width, bottom: height }, to, |x, y| {
            let share = (0.35 * x / width + 0.65 * y / height).clamp(0.0, 1.0);
            share * share * (3.0 - 2.0 * share)
        });
    }

    pub(super) fn disc(&mut self, centre_x: f32, centre_y: f32, radius: f32, colour: Colour, opacity: f32) {
        let within = Area::around((centre_x, centre_y), (radius, radius));
        self.blend(within, colour, |x, y| opacity * edge((x - centre_x).hypot(y - centre_y) - radius));
    }

    /// The upper half of an ellipse, its flat side down at `bottom`.
    pub(super) fn dome(
        &mut self,
        centre_x: f32,
        bottom: f32,
        radius_x: f32,
        radius_y: f32,
        colour: Colour,
        opacity: f32,
    ) {
        self.blend(Area::around((centre_x, bottom), (radius_x, radius_y)), colour, |x, y| {
            let distance = ((x - centre_x) / radius_x).hypot((y - bottom) / radius_y) - 1.0;
            opacity * edge(distance * radius_x.min(radius_y)).min(edge(y - bottom))
        });
    }

    /// Lines through points with a round pen of this radius, laid on once even where they cross.
    pub(super) fn strokes(&mut self, strokes: &[Vec<(f32, f32)>], radius: f32, colour: Colour, opacity: f32) {
        let fold = |of: fn(&(f32, f32)) -> f32, pick: fn(f32, f32) -> f32, start: f32| {
            strokes.iter().flatten().map(of).fold(start, pick)
        };
        let within = Area {
            left: fold(|point| point.0, f32::min, f32::MAX) - radius,
            top: fold(|point| point.1, f32::min, f32::MAX) - radius,
            right: fold(|point| point.0, f32::max, f32::MIN) + radius,
            bottom: fold(|point| point.1, f32::max, f32::MIN) + radius,
        };
        self.blend(within, colour, |x, y| {
            let pairs = strokes.iter().flat_map(|stroke| stroke.iter().zip(stroke.iter().skip(1)));
            let nearest = pairs.map(|(from, to)| distance((x, y), *from, *to)).fold(f32::MAX, f32::min);
            opacity * edge(nearest.sqrt() - radius)
        });
    }

    /// The picture as a PNG, 8 bits a channel.
    pub(super) fn to_png(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(13);
        header.extend_from_slice(&(self.width as u32).to_be_bytes());
        header.extend_from_slice(&(self.height as u32).to_be_bytes());
        // 8 bits, red-green-blue; the only compression and filter methods; not interlaced.
        header.extend_from_slice(&[8, 2, 0, 0, 0]);
        Png::new(vec![
            Chunk::new(*b"IHDR", header),
            Chunk::new(*b"IDAT", self.packed_rows()),
            Chunk::new(*b"IEND", Vec::new()),
        ])
        .to_bytes()
    }

    /// Rows as differences to the row above, which a gradient makes small.
    fn packed_rows(&self) -> Vec<u8> {
        const UP: u8 = 2;
        let mut packer = ZlibEncoder::new(Vec::new(), Compression::default());
        let mut above = vec![0_u8; self.width * 3];
        for row in self.pixels.chunks(self.width) {
            let bytes: Vec<u8> =
                row.iter().flat_map(|pixel| pixel.0).map(|light| (light * 255.0).round() as u8).collect();
            let mut filtered = vec![UP];
            filtered.extend(bytes.iter().zip(&above).map(|(byte, above)| byte.wrapping_sub(*above)));
            // Writing to a Vec cannot fail.
            let _ = packer.write_all(&filtered);
            above = bytes;
        }
        packer.finish().unwrap_or_default()
    }
}

/// How much of a pixel is inside, by the distance of its middle from the edge (negative inside).
fn edge(distance: f32) -> f32 {
    (0.5 - distance).clamp(0.0, 1.0)
}

/// From a point to a line between two others, squared.
fn distance(point: (f32, f32), from: (f32, f32), to: (f32, f32)) -> f32 {
    let (x, y) = (point.0 - from.0, point.1 - from.1);
    let (along_x, along_y) = (to.0 - from.0, to.1 - from.1);
    let length = along_x * along_x + along_y * along_y;
    let share = if length > 0.0 { ((x * along_x + y * along_y) / length).clamp(0.0, 1.0) } else { 0.0 };
    (x - share * along_x).powi(2) + (y - share * along_y).powi(2)
}
