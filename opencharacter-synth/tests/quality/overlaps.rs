use opencharacter_similarity::{OverlapKind, Reference, Similarity};
use opencharacter_synth::quality::{Decontamination, ReferenceFile};

#[test]
fn overlaps_name_row_file_and_kind() {
    let question = "If you saw a ship in distress during the storm of the century what would you do first";
    let file = |file: &str, texts: &[&str]| ReferenceFile {
        file: file.into(),
        texts: texts.iter().map(|text| (*text).to_owned()).collect(),
    };
    let files = [
        file("bench.jsonl", &["Other", question]),
        file("personas.jsonl", &["A keeper of bees in the Alps", question]),
    ];
    let check = Decontamination::new(&files, Similarity::default(), Reference::DEFAULT_RUN).unwrap();
    let quoting =
        format!("Listen to this. {question}? And what would you do then, and what would your wife say to it?");
    let rows = [
        ("clean", vec!["A baker in Lyon", "I bake."]),
        ("second", vec!["Nothing here", quoting.as_str()]),
        (
            "third",
            vec![
                "a KEEPER of bees, in the alps",
                "if you saw a ship in distress during the storm of the century what would you do",
            ],
        ),
    ];
    let found = check.overlaps(&rows);
    let shown: Vec<(&str, usize, &str, usize, OverlapKind)> = found
        .iter()
        .map(|found| (found.id.as_str(), found.text, found.file.as_str(), found.file_row, found.kind))
        .collect();
    assert_eq!(
        shown,
        [
            ("second", 2, "bench.jsonl", 2, OverlapKind::Contains),
            ("second", 2, "personas.jsonl", 2, OverlapKind::Contains),
            ("third", 1, "personas.jsonl", 1, OverlapKind::Exact),
            ("third", 2, "bench.jsonl", 2, OverlapKind::Near),
            ("third", 2, "personas.jsonl", 2, OverlapKind::Near),
        ]
    );
    assert_eq!(found[2].to_string(), "row 3, `third`: the same words as row 1 of `personas.jsonl`");
    assert_eq!(found[3].to_string(), "row 3, `third`: near-duplicate of row 2 of `bench.jsonl` (similarity 0.94)");
    assert!(check.overlaps(&[]).is_empty());
}
