use std::fmt::Write as _;

/// A growing HTML document into which foreign text can only come escaped.
///
/// Markup must be known when this program is compiled (`&'static str`); everything else goes through [`Html::text`].
#[derive(Debug, Default)]
pub(crate) struct Html(String);

impl Html {
    /// Markup written in this program.
    pub(crate) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Text from anywhere, safe between tags and inside a quoted attribute.
    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\n' | '\t' => self.0.push(character),
                // HTML allows no other control characters; hidden ones could also break a row.
                control if control.is_control() => self.0.push('\u{FFFD}'),
                other => self.0.push(other),
            }
        }
        self
    }

    /// A number as a coordinate.
    pub(crate) fn number(&mut self, value: f64) -> &mut Self {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "{value:.1}");
        self
    }

    /// `before`, escaped text, `after`.
    pub(crate) fn element(&mut self, before: &'static str, text: &str, after: &'static str) -> &mut Self {
        self.raw(before).text(text).raw(after)
    }

    /// A value as JSON inside a script element of type `application/json`, which nothing in it can close.
    pub(crate) fn json(&mut self, value: &impl serde::Serialize) -> &mut Self {
        // Only keys that are no strings could fail, and there are none.
        let json = serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned());
        for character in json.chars() {
            match character {
                '<' => self.0.push_str("\\u003c"),
                '>' => self.0.push_str("\\u003e"),
                '&' => self.0.push_str("\\u0026"),
                '\u{2028}' => self.0.push_str("\\u2028"),
                '\u{2029}' => self.0.push_str("\\u2029"),
                other => self.0.push(other),
            }
        }
        self
    }

    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_leave_its_place() {
        let mut html = Html::default();
        html.element("<a title=\"", "\"><script>alert('x')</script>&\u{0}", "\">");
        assert_eq!(
            html.into_string(),
            "<a title=\"&quot;&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;\u{FFFD}\">"
        );
    }
}
