//! Markdown that strangers wrote, as HTML that does nothing.

use std::{collections::HashSet, sync::LazyLock};

use ammonia::Builder;
use pulldown_cmark::{Event, Options, Parser, html};

/// Only what a message needs: no pictures, which would be fetched from wherever they lie, and no addresses but the web's.
static SANITISER: LazyLock<Builder<'static>> = LazyLock::new(|| {
    let mut builder = Builder::empty();
    builder
        .tags(HashSet::from([
            "p",
            "br",
            "em",
            "strong",
            "del",
            "blockquote",
            "ul",
            "ol",
            "li",
            "code",
            "pre",
            "hr",
            "h1",
            "h2",
            "h3",
            "h4",
            "h5",
            "h6",
            "a",
            "table",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
        ]))
        .tag_attributes([("a", HashSet::from(["href"])), ("ol", HashSet::from(["start"]))].into())
        .url_schemes(HashSet::from(["http", "https"]))
        .url_relative(ammonia::UrlRelative::Deny)
        .link_rel(Some("noopener noreferrer nofollow"));
    builder
});

/// A message as HTML. What it holds of HTML itself is shown as text.
pub(crate) fn to_html(text: &str) -> String {
    let options = Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TABLES;
    let events = Parser::new_ext(text, options).map(|event| match event {
        Event::Html(html) | Event::InlineHtml(html) => Event::Text(html),
        // A line of a message is a line.
        Event::SoftBreak => Event::HardBreak,
        event => event,
    });
    let mut page = String::with_capacity(text.len() * 5 / 4);
    html::push_html(&mut page, events);
    SANITISER.clean(&page).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_form_and_lose_their_teeth() {
        assert_eq!(to_html("*She nods.*\n\"Yes.\""), "<p><em>She nods.</em><br>\n\"Yes.\"</p>\n");
        assert!(to_html("[a](https://example.com/)").contains("href=\"https://example.com/\""));
        for attack in [
            "<script>alert(1)</script>",
            "<img src=x onerror=alert(1)>",
            "[a](javascript:alert(1))",
            "[a](<data:text/html;base64,PHNjcmlwdD4=>)",
            "![a](https://example.com/pixel.png)",
            "<a href=\"javascript:alert(1)\">a</a>",
            "`<svg onload=alert(1)>`",
            "<style>*{display:none}</style>",
            "[a](/v1/characters)",
        ] {
            let html = to_html(attack);
            for tooth in [
                "<script",
                "<img",
                "<svg",
                "<style",
                "<a href=\"javascript",
                "<a href=\"data",
                "<a href=\"/",
                "<a onerror",
            ] {
                assert!(!html.contains(tooth), "{attack}: {html}");
            }
        }
    }
}
