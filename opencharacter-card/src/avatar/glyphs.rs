//! Capitals and digits as strokes of one round pen, drawn for this program.

/// Height of every glyph; y grows downwards from 0.
pub(super) const CAP_HEIGHT: f32 = 10.0;

/// A letter or digit.
#[derive(Debug)]
pub(super) struct Glyph {
    pub(super) width: f32,
    /// Each a line through its points.
    pub(super) strokes: Vec<Vec<(f32, f32)>>,
}

/// A piece of a stroke.
enum Piece {
    /// On to this point.
    To(f32, f32),
    /// On along an ellipse: centre, radii, and the angles in degrees between which to go, clockwise from the right.
    Arc((f32, f32), (f32, f32), (f32, f32)),
}

use Piece::{Arc, To};

/// The glyph of a capital or a digit.
pub(super) fn glyph(letter: char) -> Option<Glyph> {
    let pieces = capital(letter).or_else(|| digit(letter))?;
    let strokes: Vec<Vec<(f32, f32)>> = pieces.iter().map(|stroke| flatten(stroke)).collect();
    let width = strokes.iter().flatten().map(|point| point.0).fold(0.0, f32::max);
    Some(Glyph { width, strokes })
}

fn flatten(pieces: &[Piece]) -> Vec<(f32, f32)> {
    const STEPS: usize = 32;
    let mut points = Vec::new();
    for piece in pieces {
        match *piece {
            To(x, y) => points.push((x, y)),
            Arc((x, y), (radius_x, radius_y), (from, to)) => points.extend((0..=STEPS).map(|step| {
                let angle = (from + (to - from) * step as f32 / STEPS as f32).to_radians();
                (x + radius_x * angle.cos(), y + radius_y * angle.sin())
            })),
        }
    }
    points
}

fn capital(letter: char) -> Option<Vec<Vec<Piece>>> {
    let stem = || vec![To(0.0, 0.0), To(0.0, 10.0)];
    let bowl = || vec![To(0.0, 0.0), To(3.6, 0.0), Arc((3.6, 2.9), (2.9, 2.9), (-90.0, 90.0)), To(0.0, 5.8)];
    let ring = || vec![Arc((5.0, 5.0), (5.0, 5.0), (0.0, 360.0))];
    Some(match letter {
        'A' => vec![vec![To(0.0, 10.0), To(4.1, 0.0), To(8.2, 10.0)], vec![To(1.45, 6.6), To(6.75, 6.6)]],
        'B' => vec![vec![
            To(0.0, 4.8),
            To(0.0, 0.0),
            To(3.4, 0.0),
            Arc((3.4, 2.4), (2.4, 2.4), (-90.0, 90.0)),
            To(0.0, 4.8),
            To(0.0, 10.0),
            To(3.7, 10.0),
            Arc((3.7, 7.4), (2.6, 2.6), (90.0, -90.0)),
        ]],
        'C' => vec![vec![Arc((4.9, 5.0), (4.9, 5.0), (42.0, 318.0))]],
        'D' => vec![vec![
            To(0.0, 10.0),
            To(0.0, 0.0),
            To(2.9, 0.0),
            Arc((2.9, 5.0), (4.8, 5.0), (-90.0, 90.0)),
            To(0.0, 10.0),
        ]],
        'E' => vec![vec![To(5.8, 0.0), To(0.0, 0.0), To(0.0, 10.0), To(5.8, 10.0)], vec![To(0.0, 4.9), To(5.0, 4.9)]],
        'F' => vec![vec![To(5.8, 0.0), To(0.0, 0.0), To(0.0, 10.0)], vec![To(0.0, 5.0), To(4.9, 5.0)]],
        'G' => vec![vec![Arc((4.9, 5.0), (4.9, 5.0), (-42.0, -360.0)), To(5.6, 5.0)]],
        'H' => vec![stem(), vec![To(7.2, 0.0), To(7.2, 10.0)], vec![To(0.0, 4.9), To(7.2, 4.9)]],
        'I' => vec![stem()],
        'J' => vec![vec![To(4.8, 0.0), To(4.8, 7.2), Arc((2.4, 7.2), (2.4, 2.8), (0.0, 165.0))]],
        'K' => vec![stem(), vec![To(6.4, 0.0), To(0.0, 6.2)], vec![To(2.35, 3.95), To(6.8, 10.0)]],
        'L' => vec![vec![To(0.0, 0.0), To(0.0, 10.0), To(5.6, 10.0)]],
        'M' => vec![vec![To(0.0, 10.0), To(0.0, 0.0), To(4.4, 7.2), To(8.8, 0.0), To(8.8, 10.0)]],
        'N' => vec![vec![To(0.0, 10.0), To(0.0, 0.0), To(7.2, 10.0), To(7.2, 0.0)]],
        'O' => vec![ring()],
        'P' => vec![stem(), bowl()],
        'Q' => vec![ring(), vec![To(6.2, 6.9), To(9.4, 10.5)]],
        'R' => vec![stem(), bowl(), vec![To(3.1, 5.8), To(6.6, 10.0)]],
        'S' => {
            vec![vec![Arc((3.4, 2.55), (3.0, 2.55), (-28.0, -270.0)), Arc((3.4, 7.55), (3.4, 2.45), (-90.0, 155.0))]]
        }
        'T' => vec![vec![To(0.0, 0.0), To(7.6, 0.0)], vec![To(3.8, 0.0), To(3.8, 10.0)]],
        'U' => vec![vec![To(0.0, 0.0), Arc((3.6, 6.4), (3.6, 3.6), (180.0, 0.0)), To(7.2, 0.0)]],
        'V' => vec![vec![To(0.0, 0.0), To(4.0, 10.0), To(8.0, 0.0)]],
        'W' => vec![vec![To(0.0, 0.0), To(2.8, 10.0), To(5.6, 1.4), To(8.4, 10.0), To(11.2, 0.0)]],
        'X' => vec![vec![To(0.0, 0.0), To(7.2, 10.0)], vec![To(7.2, 0.0), To(0.0, 10.0)]],
        'Y' => vec![vec![To(0.0, 0.0), To(3.8, 5.2), To(7.6, 0.0)], vec![To(3.8, 5.2), To(3.8, 10.0)]],
        'Z' => vec![vec![To(0.0, 0.0), To(6.8, 0.0), To(0.0, 10.0), To(6.8, 10.0)]],
        _ => return None,
    })
}

fn digit(letter: char) -> Option<Vec<Vec<Piece>>> {
    let ring = |centre, radii| vec![Arc(centre, radii, (0.0, 360.0))];
    Some(match letter {
        '0' => vec![ring((3.5, 5.0), (3.5, 5.0))],
        '1' => vec![vec![To(0.0, 2.0), To(2.6, 0.0), To(2.6, 10.0)]],
        '2' => vec![vec![Arc((3.2, 3.0), (3.1, 3.0), (190.0, 398.0)), To(0.0, 10.0), To(6.4, 10.0)]],
        '3' => vec![vec![Arc((3.0, 2.55), (2.7, 2.55), (205.0, 450.0)), Arc((3.0, 7.55), (3.0, 2.45), (-90.0, 160.0))]],
        '4' => vec![vec![To(5.2, 10.0), To(5.2, 0.0), To(0.0, 7.0), To(7.2, 7.0)]],
        '5' => vec![vec![To(5.6, 0.0), To(1.0, 0.0), Arc((3.0, 6.7), (3.1, 3.3), (222.0, 510.0))]],
        '6' => vec![vec![To(4.4, 0.0), Arc((3.2, 6.7), (3.2, 3.3), (205.0, 565.0))]],
        '7' => vec![vec![To(0.0, 0.0), To(6.2, 0.0), To(2.0, 10.0)]],
        '8' => vec![ring((3.2, 2.4), (2.6, 2.4)), ring((3.2, 7.4), (3.2, 2.6))],
        '9' => vec![vec![To(2.0, 10.0), Arc((3.2, 3.3), (3.2, 3.3), (25.0, 385.0))]],
        _ => return None,
    })
}
