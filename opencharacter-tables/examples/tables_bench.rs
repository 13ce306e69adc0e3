//! Rows per second and peak memory of JSON Lines -> Parquet -> filter -> CSV.
//!
//!     cargo run --release -p opencharacter-tables --example tables_bench -- [ROWS]

use std::{env, error::Error, fs, time::Instant};

use futures_util::TryStreamExt;
use opencharacter_storage::Location;
use opencharacter_tables::{QueryOptions, ReadOptions, Rows, Table, WriteOptions, nouns, query};
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let count = env::args().nth(1).map_or(Ok(1_000_000), |count| count.parse())?;
    let folder = tempfile::tempdir()?;
    let table = |name: &str| Table::at(&Location::from(folder.path().join(name)));
    let lines = table("dialogues.jsonl")?;
    let parquet = table("dialogues.parquet")?;
    let some = table("some.csv")?;
    let condition = "character_id LIKE '%7' AND array_length(messages) = 2";

    let mut writer = lines.writer(WriteOptions::default()).await?;
    let start = Instant::now();
    for index in 0..count {
        writer.write(&dialogue(index)).await?;
    }
    report("write JSON Lines", start, writer.finish().await?);

    let start = Instant::now();
    let columns = Some(nouns::dialogues());
    report("JSON Lines to Parquet", start, copy(lines.rows(ReadOptions::default()).await?, &parquet, columns).await?);

    for source in [&lines, &parquet] {
        let start = Instant::now();
        let rows = source.rows(ReadOptions { filter: Some(condition.into()) }).await?;
        let kept = copy(rows, &some, None).await?;
        report(&format!("{:?}, filtered, to CSV ({kept} kept)", source.format()), start, count);
    }

    for source in [&lines, &parquet] {
        let start = Instant::now();
        let sql = "SELECT character_id, count(*) AS n FROM t GROUP BY character_id ORDER BY n DESC, character_id";
        let groups: Vec<_> = query(sql, &[("t", source)], QueryOptions::default()).await?.try_collect().await?;
        report(&format!("{:?}, grouped ({} groups)", source.format(), groups.len()), start, count);
    }

    for name in ["dialogues.jsonl", "dialogues.parquet", "some.csv"] {
        println!("{name}: {:.1} MB", fs::metadata(folder.path().join(name))?.len() as f64 / 1e6);
    }
    Ok(())
}

async fn copy(mut rows: Rows, to: &Table, columns: Option<Vec<opencharacter_tables::Column>>) -> Outcome<usize> {
    let mut writer = to.writer(WriteOptions { columns }).await?;
    while let Some(row) = rows.try_next().await? {
        writer.write(&row.value).await?;
    }
    Ok(writer.finish().await?)
}

fn dialogue(index: usize) -> Value {
    let words = ["harbour", "winter", "lantern", "orchard", "compass", "violin", "granite", "meadow"];
    let sentence = |seed: usize| {
        let word = |place: usize| words[(seed.wrapping_mul(2_654_435_761) >> (3 * place)) % words.len()];
        format!("The {} of {} was {} by the {}, number {seed}. ", word(0), word(1), word(2), word(3))
    };
    json!({
        "dialogue_id": format!("dialogue-{index:016x}"),
        "character_id": format!("character-{}", index % 20_000),
        "question_source": "bench",
        "strategy": "generate",
        "messages": [
            {"role": "user", "content": sentence(index)},
            {"role": "assistant", "content": (0..6).map(|part| sentence(index + part)).collect::<String>()},
        ],
    })
}

fn report(what: &str, start: Instant, rows: usize) {
    let seconds = start.elapsed().as_secs_f64();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("unknown").trim();
    println!("{what}: {rows} rows in {seconds:.1} s, {:.0} rows/s, peak memory {peak}", rows as f64 / seconds);
}
