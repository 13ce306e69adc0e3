//! Converts a card: `cargo run --release -p opencharacter-card --example convert IN FORMAT OUT`, where FORMAT is
//! `json-v1`, `json-v2`, `json-v3`, `png-v1`, `png-v2`, `png-v3` or `charx`. What was left out goes to standard error.

use std::{error::Error, fs, path::Path};

use opencharacter_card::{CardFile, CardFormat, Spec};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, format, output] = arguments.as_slice() else {
        return Err("expected IN FORMAT OUT".into());
    };
    let format = match format.as_str() {
        "json-v1" => CardFormat::Json(Spec::V1),
        "json-v2" => CardFormat::Json(Spec::V2),
        "json-v3" => CardFormat::Json(Spec::V3),
        "png-v1" => CardFormat::Png(Spec::V1),
        "png-v2" => CardFormat::Png(Spec::V2),
        "png-v3" => CardFormat::Png(Spec::V3),
        "charx" => CardFormat::Charx,
        other => return Err(format!("unknown format `{other}`").into()),
    };
    let file = CardFile::open(Path::new(input))?;
    let written = file.write(format)?;
    for warning in file.warnings.iter().chain(&written.warnings) {
        eprintln!("{warning}");
    }
    fs::write(output, written.bytes)?;
    Ok(())
}
