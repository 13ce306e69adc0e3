use serde_json::{Map, Value};

use crate::{
    fields::{Field, Kept, Reader},
    limits,
};

/// A picture or other file of a V3 card.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Asset {
    /// `icon`, `background`, `user_icon`, `emotion`, or one's own beginning with `x_`.
    pub kind: String,
    /// Where it is: see [`AssetAddress`].
    pub uri: String,
    /// Its name among its kind; the icon to show is `main`.
    pub name: String,
    /// Its format in lower case without a dot, or `unknown`.
    pub ext: String,
    /// What else was said of it.
    pub kept: Kept,
}

/// What an asset's `uri` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AssetAddress<'a> {
    /// `embeded://PATH` (spelled so in the specification) or `embedded://PATH`: a file of the CHARX archive.
    Embedded(&'a str),
    /// `__asset:PATH`: a text chunk of the PNG.
    Chunk(&'a str),
    /// `data:`: the file itself, usually in base64.
    Data(&'a str),
    /// `ccdefault:`: the picture that the card travels in.
    Default,
    /// Anything else, above all `https:`. It is never fetched.
    Elsewhere,
}

impl Asset {
    /// What its address says.
    pub fn address(&self) -> AssetAddress<'_> {
        let uri = self.uri.trim();
        let after = |prefix: &str| {
            uri.get(..prefix.len()).filter(|start| start.eq_ignore_ascii_case(prefix)).map(|start| &uri[start.len()..])
        };
        if let Some(path) = after("embeded://").or_else(|| after("embedded://")) {
            AssetAddress::Embedded(path)
        } else if let Some(path) = after("__asset:") {
            AssetAddress::Chunk(path)
        } else if let Some(data) = after("data:") {
            AssetAddress::Data(data)
        } else if after("ccdefault:").is_some() {
            AssetAddress::Default
        } else {
            AssetAddress::Elsewhere
        }
    }

    /// Whether it is the icon to show.
    pub fn is_main_icon(&self) -> bool {
        self.kind == "icon" && self.name == "main"
    }

    /// The icon that a card has whose `assets` say nothing: the picture that it travels in.
    pub fn default_icon() -> Self {
        Self {
            kind: "icon".into(),
            uri: "ccdefault:".into(),
            name: "main".into(),
            ext: "png".into(),
            ..Self::default()
        }
    }

    pub(crate) fn list(reader: &mut Reader<'_>) -> Option<Vec<Self>> {
        let Value::Array(items) = reader.value("assets")? else {
            reader.unreadable("assets", "a list", Value::Null);
            return None;
        };
        if items.len() > limits::LIST_ITEMS {
            reader.unreadable("assets", "a shorter list", Value::Null);
            return None;
        }
        let place = reader.place("assets");
        let mut assets = Vec::new();
        let count = items.len();
        for (index, item) in items.into_iter().enumerate() {
            if let Value::Object(map) = item {
                assets.push(Self::read(map, format!("{place}[{index}]"), reader));
            }
        }
        if assets.len() < count {
            reader.unreadable("assets", "a list of objects", Self::to_value(&assets));
        }
        Some(assets)
    }

    fn read(map: Map<String, Value>, place: String, outer: &mut Reader<'_>) -> Self {
        let mut reader = Reader::new(map, place, outer.warnings());
        Self {
            kind: reader.text("type"),
            uri: reader.text("uri"),
            name: reader.text("name"),
            ext: reader.text("ext"),
            kept: reader.finish(),
        }
    }

    pub(crate) fn to_value(assets: &[Self]) -> Value {
        let object = |asset: &Self| {
            Value::Object(asset.kept.overlay([
                Field::required("type", asset.kind.as_str()),
                Field::required("uri", asset.uri.as_str()),
                Field::required("name", asset.name.as_str()),
                Field::required("ext", asset.ext.as_str()),
            ]))
        };
        assets.iter().map(object).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart_in_both_spellings() {
        for (uri, address) in [
            ("embeded://assets/icon/main.png", AssetAddress::Embedded("assets/icon/main.png")),
            ("embedded://a", AssetAddress::Embedded("a")),
            ("Embeded://a", AssetAddress::Embedded("a")),
            ("__asset:3", AssetAddress::Chunk("3")),
            ("data:image/png;base64,AA", AssetAddress::Data("image/png;base64,AA")),
            ("ccdefault:", AssetAddress::Default),
            ("https://example.org/a.png", AssetAddress::Elsewhere),
            ("é", AssetAddress::Elsewhere),
        ] {
            assert_eq!(Asset { uri: uri.into(), ..Asset::default() }.address(), address);
        }
    }
}
