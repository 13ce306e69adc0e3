use opencharacter_card::{CardFile, CardFormat, Spec, read_folder};

use super::tests;

#[test]
fn a_folder_is_read_in_order_and_bad_files_end_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = CardFile::parse(&std::fs::read(tests("cards/v2_full.json")).unwrap()).unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    put("b.PNG", &file.write(CardFormat::Png(Spec::V3)).unwrap().bytes);
    put("a.charx", &file.write(CardFormat::Charx).unwrap().bytes);
    put("c.json", b"{\"name\": 1");
    put("d.json", &file.write(CardFormat::Json(Spec::V1)).unwrap().bytes);
    put("picture.jpg", b"\xFF\xD8\xFF\xE0only a picture");
    put("notes.txt", b"not a card");
    std::fs::create_dir(folder.path().join("e.png")).unwrap();
    let names: Vec<(String, bool)> = read_folder(folder.path())
        .unwrap()
        .map(|entry| (entry.path.file_name().unwrap().to_string_lossy().into_owned(), entry.card.is_ok()))
        .collect();
    assert_eq!(
        names,
        [("a.charx".into(), true), ("b.PNG".into(), true), ("c.json".into(), false), ("d.json".into(), true)]
    );
    let (characters, errors) = read_folder(folder.path()).unwrap().characters();
    let sources: Vec<&str> = characters.iter().map(|character| character.source.as_str()).collect();
    assert_eq!(sources, ["a.charx", "b.PNG", "d.json"]);
    assert!(characters.iter().all(|character| character.character_id == characters[0].character_id));
    assert_eq!(errors.len(), 1);
    let error = errors[0].to_string();
    assert!(error.contains("c.json`: card: no valid JSON") && error.contains("line 1 column"), "{error}");
    assert!(read_folder(&folder.path().join("none")).unwrap_err().to_string().contains("none`"));
}
