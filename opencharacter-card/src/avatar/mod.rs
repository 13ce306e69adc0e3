//! A picture for a character that has none: its initials on a colour that follows from its name.

mod canvas;
mod glyphs;

use icu_normalizer::DecomposingNormalizerBorrowed;
use opencharacter_core::KeyedRandom;

use canvas::{Canvas, Colour};
use glyphs::{CAP_HEIGHT, Glyph, glyph};

/// Pixels; two to three is what front ends show.
const WIDTH: usize = 400;
const HEIGHT: usize = 600;

/// A PNG of 400 x 600 pixels: initials in white, or a bust where the name has no Latin letter or digit. Equal names give
/// equal bytes.
pub fn avatar_png(name: &str) -> Vec<u8> {
    let name = name.trim();
    let mut random = KeyedRandom::new(0, &["avatar", name]);
    let hue = random.uniform() * 360.0;
    let turn = 25.0 + 45.0 * random.uniform();
    let mut canvas = Canvas::new(WIDTH, HEIGHT);
    let (light, dark) = (Colour::oklch(0.72, 0.115, hue), Colour::oklch(0.40, 0.105, hue + turn));
    canvas.gradient(light, dark);
    let (centre_x, centre_y) = (WIDTH as f32 / 2.0, HEIGHT as f32 * 0.47);
    // A halo, a little off the middle, keeps the background from looking like a test pattern.
    canvas.disc(centre_x, centre_y, 150.0, Colour::WHITE, 0.10);
    canvas.disc(centre_x + 130.0, centre_y + 260.0, 190.0, Colour::WHITE, 0.05);
    let glyphs: Vec<Glyph> = initials(name).into_iter().filter_map(glyph).collect();
    if glyphs.is_empty() {
        draw_bust(&mut canvas, centre_x, centre_y);
    } else {
        draw_glyphs(&mut canvas, &glyphs, centre_x, centre_y);
    }
    canvas.to_png()
}

/// The first letters of the first and the last word, without their accents.
fn initials(name: &str) -> Vec<char> {
    let mut letters: Vec<char> = name
        .split(|character: char| character.is_whitespace() || "-_.,/()[]\"“”".contains(character))
        .filter_map(|word| word.chars().find(|character| character.is_alphanumeric()))
        .filter_map(plain_letter)
        .collect();
    if letters.len() > 2 {
        letters.drain(1..letters.len() - 1);
    }
    letters
}

/// The capital that a letter is drawn as; `None` outside of Latin letters and digits.
fn plain_letter(letter: char) -> Option<char> {
    let base = match letter {
        'Ø' | 'ø' | 'Œ' | 'œ' => 'O',
        'Ł' | 'ł' => 'L',
        'Æ' | 'æ' => 'A',
        'Đ' | 'đ' | 'Ð' | 'ð' => 'D',
        'Þ' | 'þ' => 'T',
        'ß' | 'ẞ' => 'S',
        other => DecomposingNormalizerBorrowed::new_nfd().normalize_iter(std::iter::once(other)).next()?,
    };
    base.is_ascii_alphanumeric().then(|| base.to_ascii_uppercase())
}

fn draw_glyphs(canvas: &mut Canvas, glyphs: &[Glyph], centre_x: f32, centre_y: f32) {
    // In glyph units: a cap is `CAP_HEIGHT` high.
    const GAP: f32 = 3.4;
    let widths: f32 = glyphs.iter().map(|glyph| glyph.width).sum();
    let total = widths + GAP * (glyphs.len() - 1) as f32;
    let scale = if glyphs.len() == 1 { 15.0 } else { (190.0 / total).min(11.5) };
    let pen = scale * 0.78;
    let mut x = centre_x - total * scale / 2.0;
    let y = centre_y - CAP_HEIGHT * scale / 2.0;
    for glyph in glyphs {
        let place = |(glyph_x, glyph_y): (f32, f32)| (x + glyph_x * scale, y + glyph_y * scale);
        let strokes: Vec<Vec<(f32, f32)>> =
            glyph.strokes.iter().map(|stroke| stroke.iter().copied().map(place).collect()).collect();
        canvas.strokes(&strokes, pen, Colour::WHITE, 0.96);
        x += (glyph.width + GAP) * scale;
    }
}

/// Head and shoulders.
fn draw_bust(canvas: &mut Canvas, centre_x: f32, centre_y: f32) {
    canvas.disc(centre_x, centre_y - 40.0, 48.0, Colour::WHITE, 0.94);
    canvas.dome(centre_x, centre_y + 92.0, 88.0, 76.0, Colour::WHITE, 0.94);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initials_are_the_first_and_last_words() {
        for (name, expected) in [
            ("Ada Holm", "AH"),
            ("ada", "A"),
            ("Dr. Émile van der Ørsted", "DO"),
            ("R2-D2", "RD"),
            ("Łucja", "L"),
            ("\"The\" (Knight)", "TK"),
            ("李小龙", ""),
            ("Иван Smith", "S"),
            ("", ""),
            ("***", ""),
        ] {
            assert_eq!(initials(name).into_iter().collect::<String>(), expected, "{name}");
        }
    }

    #[test]
    fn every_letter_and_digit_has_strokes_within_its_box() {
        for letter in ('A'..='Z').chain('0'..='9') {
            let glyph = glyph(letter).unwrap();
            assert!(!glyph.strokes.is_empty());
            for (x, y) in glyph.strokes.iter().flatten() {
                assert!((-0.1..=glyph.width + 0.4).contains(x) && (-0.1..=CAP_HEIGHT + 0.7).contains(y), "{letter}");
            }
        }
    }
}
