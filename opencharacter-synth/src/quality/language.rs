use serde::Serialize;

/// The language that a text seems to be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Language {
    /// ISO 639-3: `eng`, `deu`, `cmn`.
    pub code: &'static str,
    /// In English.
    pub name: &'static str,
    /// Whether the text is long and plain enough to go by. A line of ten words often is not.
    pub reliable: bool,
}

/// The language of `text`, by its letters and their triples; none where it has no letters.
///
/// Mixed texts are given one language. Told apart are the 70 languages of the whatlang library.
pub fn language_of(text: &str) -> Option<Language> {
    let found = whatlang::detect(text)?;
    Some(Language { code: found.lang().code(), name: found.lang().eng_name(), reliable: found.is_reliable() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_sentences_are_recognised() {
        let cases = [
            ("eng", "The old keeper climbed the stairs every evening and lit the lamp before the ships came home."),
            ("deu", "Der alte Wärter stieg jeden Abend die Treppe hinauf und zündete die Lampe für die Schiffe an."),
            ("fra", "Le vieux gardien montait l'escalier tous les soirs et allumait la lampe pour les navires."),
            ("spa", "El viejo guardián subía la escalera todas las noches y encendía la lámpara para los barcos."),
            ("cmn", "老守塔人每天晚上都爬上楼梯，为回家的船只点亮灯火。"),
            ("rus", "Старый смотритель каждый вечер поднимался по лестнице и зажигал лампу для кораблей."),
        ];
        for (code, text) in cases {
            let found = language_of(text).unwrap();
            assert_eq!(found.code, code, "{text}");
        }
        assert!(language_of("老守塔人每天晚上都爬上楼梯").unwrap().reliable);
        assert_eq!(language_of(" 42 ... "), None);
    }
}
