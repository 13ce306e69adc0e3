use base64::{Engine as _, engine::general_purpose::STANDARD};
use opencharacter_card::{Asset, Card, CardFile, CardFormat, Spec, avatar_png};

use super::{bad_input::png_with, tests};

/// Kind and content of each chunk.
fn chunks(png: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut rest = &png[8..];
    let mut chunks = Vec::new();
    while rest.len() >= 12 {
        let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        chunks.push((String::from_utf8(rest[4..8].to_vec()).unwrap(), rest[8..8 + length].to_vec()));
        rest = &rest[12 + length..];
    }
    chunks
}

fn text(keyword: &str, payload: &[u8]) -> Vec<u8> {
    [keyword.as_bytes(), b"\0", payload].concat()
}

fn card(name: &str) -> String {
    serde_json::json!({"spec": "chara_card_v2", "spec_version": "2.0", "data": {"name": name, "creator_notes": "n"}})
        .to_string()
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

#[test]
fn a_card_is_found_in_every_kind_of_text_chunk() {
    let base64 = STANDARD.encode(card("Mira"));
    let wrapped: Vec<u8> = base64.as_bytes().chunks(20).flat_map(|line| [line, b"\r\n "].concat()).collect();
    let international =
        |compressed: u8, payload: &[u8]| [b"Chara\0".as_slice(), &[compressed, 0], b"en\0", b"\0", payload].concat();
    let cases: [(&[u8; 4], Vec<u8>); 8] = [
        (b"tEXt", text("chara", base64.as_bytes())),
        (b"tEXt", text("CCV3", base64.as_bytes())),
        (b"tEXt", text("chara", &wrapped)),
        (b"tEXt", text("chara", base64.trim_end_matches('=').as_bytes())),
        (b"tEXt", text("chara", card("Mira").as_bytes())),
        (b"zTXt", text("chara", &[&[0], packed(base64.as_bytes()).as_slice()].concat())),
        (b"iTXt", international(0, base64.as_bytes())),
        (b"iTXt", international(1, &packed(base64.as_bytes()))),
    ];
    for (kind, data) in cases {
        let file = CardFile::parse(&png_with(&[(kind, &data)])).unwrap();
        assert_eq!((file.card.name.as_str(), file.warnings.len()), ("Mira", 0));
    }
}

#[test]
fn ccv3_wins_and_stands_in_for_nothing_when_it_is_broken() {
    let chunk = |keyword: &str, name: &str| text(keyword, STANDARD.encode(card(name)).as_bytes());
    let both = png_with(&[(b"tEXt", &chunk("chara", "Old")), (b"tEXt", &chunk("ccv3", "New"))]);
    let file = CardFile::parse(&both).unwrap();
    assert_eq!(file.card.name, "New");
    assert!(file.warnings[0].to_string().contains("`chara`"), "{:?}", file.warnings);

    let broken = png_with(&[(b"tEXt", &text("ccv3", b"!")), (b"tEXt", &chunk("chara", "Old"))]);
    let file = CardFile::parse(&broken).unwrap();
    assert_eq!(file.card.name, "Old");
    assert!(file.warnings[0].to_string().contains("base64"), "{:?}", file.warnings);
}

#[test]
fn other_chunks_and_what_follows_the_end_come_back_byte_for_byte() {
    let animation = [0, 0, 0, 1, 0, 0, 0, 0];
    let old = text("Chara", STANDARD.encode(card("Mira")).as_bytes());
    let mut bytes = png_with(&[
        (b"acTL", &animation),
        (b"tEXt", &text("Comment", b"mine")),
        (b"tEXt", &old),
        (b"tEXt", &text("ccv3", STANDARD.encode(card("Mira")).as_bytes())),
        (b"fdAT", b"frame"),
        (b"prVt", &[0, 255, 7]),
    ]);
    bytes.extend_from_slice(b"trailing bytes");
    let mut file = CardFile::parse(&bytes).unwrap();
    file.card.creator = "me".into();
    let written = file.write(CardFormat::Png(Spec::V2)).unwrap().bytes;
    assert!(written.ends_with(b"trailing bytes"));
    let is_card = |(kind, data): &(String, Vec<u8>)| {
        kind == "tEXt" && (data.to_ascii_lowercase().starts_with(b"chara\0") || data.starts_with(b"ccv3\0"))
    };
    let others = |png: &[u8]| {
        let end = png.len() - b"trailing bytes".len();
        chunks(&png[..end]).into_iter().filter(|chunk| !is_card(chunk)).collect::<Vec<_>>()
    };
    assert_eq!(others(&written), others(&bytes));
    let cards: Vec<_> = chunks(&written[..written.len() - 14]).into_iter().filter(is_card).collect();
    assert_eq!(cards.len(), 1, "old chunks are replaced");
    assert_eq!(CardFile::parse(&written).unwrap().card.creator, "me");
}

#[test]
fn v3_brings_a_v2_copy_that_says_so() {
    let mut card = Card { name: "Mira".into(), nickname: "Mi".into(), ..Card::default() };
    card.creator_notes = "Notes".into();
    card.assets = Some(vec![Asset { uri: "data:;base64,AAEC".into(), kind: "x_a".into(), ..Asset::default() }]);
    let written = CardFile::new(card.clone()).write(CardFormat::Png(Spec::V3)).unwrap().bytes;
    let json = |keyword: &str| {
        let start = text(keyword, b"");
        let (_, data) = chunks(&written).into_iter().find(|(_, data)| data.starts_with(&start)).unwrap();
        serde_json::from_slice::<serde_json::Value>(&STANDARD.decode(&data[start.len()..]).unwrap()).unwrap()
    };
    assert_eq!(json("ccv3")["spec"], "chara_card_v3");
    let copy = json("chara");
    assert_eq!((&copy["spec"], &copy["spec_version"]), (&"chara_card_v2".into(), &"2.0".into()));
    assert!(copy["data"]["creator_notes"].as_str().unwrap().starts_with("Notes\n\n[This is the V2 copy"));
    assert!(copy["data"].get("assets").is_none());
    let chunks = chunks(&written);
    let order: Vec<&str> = chunks.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(order, ["IHDR", "IDAT", "tEXt", "tEXt", "IEND"]);
    // Where a program kept only the copy, the note about it goes again.
    let without_v3: Vec<u8> = {
        let (kind, data) = chunks.iter().find(|(_, data)| data.starts_with(b"chara\0")).unwrap();
        png_with(&[(kind.as_bytes().try_into().unwrap(), data)])
    };
    assert_eq!(CardFile::parse(&without_v3).unwrap().card.creator_notes, "Notes");
}

#[test]
fn assets_of_png_chunks_are_read_kept_and_moved() {
    let card = serde_json::json!({"spec": "chara_card_v3", "spec_version": "3.0", "data": {"name": "Mira", "assets": [
        {"type": "icon", "uri": "ccdefault:", "name": "main", "ext": "png"},
        {"type": "emotion", "uri": "__asset:0", "name": "joy", "ext": "webp"}]}});
    let bytes = png_with(&[
        (b"tEXt", &text("chara-ext-asset_:0", STANDARD.encode(b"WEBP bytes").as_bytes())),
        (b"tEXt", &text("ccv3", STANDARD.encode(card.to_string()).as_bytes())),
    ]);
    let file = CardFile::parse(&bytes).unwrap();
    let assets = file.card.assets.clone().unwrap();
    assert_eq!(file.asset(&assets[1]).unwrap().unwrap(), b"WEBP bytes");
    let again = CardFile::parse(&file.write(CardFormat::Png(Spec::V3)).unwrap().bytes).unwrap();
    assert_eq!(again.asset(&assets[1]).unwrap().unwrap(), b"WEBP bytes");

    let charx = CardFile::parse(&file.write(CardFormat::Charx).unwrap().bytes).unwrap();
    assert_eq!(charx.files(), ["assets/emotion/images/joy.webp", "assets/icon/images/main.png"]);
    let moved = charx.card.assets.clone().unwrap();
    assert_eq!(charx.asset(&moved[1]).unwrap().unwrap(), b"WEBP bytes");
    assert_eq!(charx.asset(&moved[0]).unwrap().unwrap(), file.picture());
    // And back into a PNG: the icon is its picture again, the rest travels as addresses.
    let back = charx.write(CardFormat::Png(Spec::V3)).unwrap();
    assert!(back.warnings.is_empty(), "{:?}", back.warnings);
    let back = CardFile::parse(&back.bytes).unwrap();
    assert_eq!(back.picture(), file.picture());
    let assets = back.card.assets.clone().unwrap();
    assert_eq!(assets[0].uri, "ccdefault:");
    assert_eq!(back.asset(&assets[1]).unwrap().unwrap(), b"WEBP bytes");
}

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    use std::io::Write as _;
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in files {
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        writer.start_file(*name, options).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.set_comment("a comment").unwrap();
    writer.finish().unwrap().into_inner()
}

#[test]
fn charx_keeps_every_file_and_both_spellings_are_read() {
    let card = serde_json::json!({"spec": "chara_card_v3", "spec_version": "3.0", "data": {"name": "Mira", "assets": [
        {"type": "icon", "uri": "embeded://assets/icon/images/main.png", "name": "main", "ext": "png"},
        {"type": "x_risu", "uri": "embedded://assets/other/a b.bin", "name": "a", "ext": "bin"},
        {"type": "emotion", "uri": "embeded://assets/missing.png", "name": "m", "ext": "png"},
        {"type": "emotion", "uri": "embeded://../../etc/passwd", "name": "p", "ext": "png"}]}});
    let picture = avatar_png("Mira");
    let noise: Vec<u8> = (0..5_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let zip = archive(&[
        ("x_meta/1.json", b"{}"),
        ("card.json", card.to_string().as_bytes()),
        ("assets/icon/images/main.png", &picture),
        ("assets/other/a b.bin", &noise),
        ("module.risum", b"\0\x01risu"),
    ]);
    // As a JPEG that is a CHARX, too.
    let jpeg = [b"\xFF\xD8\xFF\xE0 picture".as_slice(), &zip].concat();
    for (bytes, prefix) in [(&zip, 0), (&jpeg, jpeg.len() - zip.len())] {
        let mut file = CardFile::parse(bytes).unwrap();
        let warnings: Vec<String> = file.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            warnings,
            [
                "data.assets[2].uri: names a file that did not come with the card",
                "data.assets[3].uri: leads out of the card's own folder; it will not be read"
            ]
        );
        let assets = file.card.assets.clone().unwrap();
        assert_eq!(file.asset(&assets[1]).unwrap().unwrap(), noise);
        assert_eq!(file.asset(&assets[2]).unwrap(), None);
        assert!(file.asset(&assets[3]).unwrap_err().to_string().contains("do not trust"));
        assert_eq!(file.picture(), picture);

        file.card.name = "Mira 2".into();
        file.add_asset("x_adapter", "lora", "safetensors", vec![7; 100]).unwrap();
        let written = file.write(CardFormat::Charx).unwrap().bytes;
        assert_eq!(written[..prefix], bytes[..prefix]);
        let again = CardFile::parse(&written).unwrap();
        assert_eq!(again.card.name, "Mira 2");
        assert_eq!(
            again.files(),
            [
                "x_meta/1.json",
                "assets/icon/images/main.png",
                "assets/other/a b.bin",
                "module.risum",
                "assets/x_adapter/ai/lora.safetensors"
            ]
        );
        let adapter = again.card.assets.clone().unwrap().pop().unwrap();
        assert_eq!(again.asset(&adapter).unwrap().unwrap(), [7; 100]);
        // Packed as they were, not packed anew; the archive's comment stays.
        let mut old = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
        let mut new = zip::ZipArchive::new(std::io::Cursor::new(&written)).unwrap();
        assert_eq!(new.comment(), b"a comment");
        for name in again.files().iter().filter(|name| !name.contains("x_adapter")) {
            use std::io::Read as _;
            let mut raw = [Vec::new(), Vec::new()];
            let index = old.index_for_name(name).unwrap();
            old.by_index_raw(index).unwrap().read_to_end(&mut raw[0]).unwrap();
            let index = new.index_for_name(name).unwrap();
            new.by_index_raw(index).unwrap().read_to_end(&mut raw[1]).unwrap();
            assert_eq!(raw[0], raw[1], "{name}");
        }
        // To a PNG, what has no place there is said.
        let png = file.write(CardFormat::Png(Spec::V3)).unwrap();
        let said: Vec<String> = png.warnings.iter().map(ToString::to_string).collect();
        assert!(said.iter().any(|line| line.starts_with("module.risum: ")), "{said:?}");
        assert_eq!(CardFile::parse(&png.bytes).unwrap().picture(), picture);
    }
}

#[test]
fn names_of_added_assets_cannot_lead_elsewhere() {
    let mut file = CardFile::new(Card::default());
    for (kind, name, ext) in
        [("icon", "../x", "png"), ("..", "..", "png"), ("icon", "a/b", "png"), ("icon", "a", "p\\g")]
    {
        assert!(file.add_asset(kind, name, ext, Vec::new()).is_err(), "{kind} {name} {ext}");
    }
}

#[test]
fn a_placeholder_is_drawn_and_can_be_decoded() {
    for name in ["Ada Holm", "李小龙", "", "W W"] {
        let file = CardFile::new(Card { name: name.into(), ..Card::default() });
        let written = file.write(CardFormat::Png(Spec::V3)).unwrap().bytes;
        let mut decoder = zune_png::PngDecoder::new(zune_core::bytestream::ZCursor::new(&written));
        let pixels = decoder.decode_raw().unwrap();
        assert_eq!((decoder.dimensions(), pixels.len()), (Some((400, 600)), 400 * 600 * 3));
        // Something is drawn in white, and not everything is.
        let white = pixels.chunks(3).filter(|pixel| pixel.iter().all(|light| *light > 240)).count();
        assert!((2_000..40_000).contains(&white), "{name}: {white}");
        assert_eq!(avatar_png(name), avatar_png(name));
    }
    assert_ne!(avatar_png("Ada"), avatar_png("Bob"));
}

#[test]
fn a_picture_replaces_a_picture_and_nothing_else() {
    let mut file = CardFile::parse(&png_with(&[
        (b"tEXt", &text("chara-ext-asset_:0", b"AAEC")),
        (b"tEXt", &text("chara", STANDARD.encode(card("Mira")).as_bytes())),
    ]))
    .unwrap();
    let picture = avatar_png("Other");
    file.set_picture(&picture).unwrap();
    assert_eq!(file.picture(), picture);
    let again = CardFile::parse(&file.write(CardFormat::Png(Spec::V2)).unwrap().bytes).unwrap();
    assert_eq!((again.picture(), again.card.name.as_str()), (picture.clone(), "Mira"));
    let asset = Asset { uri: "__asset:0".into(), ..Asset::default() };
    assert_eq!(again.asset(&asset).unwrap().unwrap(), [0, 1, 2]);
    let mut new = CardFile::new(Card::default());
    new.set_picture(&picture).unwrap();
    assert_eq!(new.picture(), picture);
    assert!(new.set_picture(&std::fs::read(tests("bad_input/truncated.png")).unwrap()).is_err());
}
