//! Writes the placeholder pictures of names: `cargo run --release -p opencharacter-card --example avatar DIR NAME...`.

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = std::path::PathBuf::from(arguments.next().unwrap_or_else(|| ".".into()));
    for (number, name) in arguments.enumerate() {
        std::fs::write(folder.join(format!("{number}.png")), opencharacter_card::avatar_png(&name))?;
    }
    Ok(())
}
