//! SentencePiece's scores, which are all that a GGUF file says of how tokens are merged, and the merges that a
//! `tokenizer.json` has in their place.
//!
//! Of all neighbours that make a token together, the pair with the best token is merged first. Every way to halve a
//! token is therefore a merge, in the order of the scores; where two tokens have one score, the longer left half comes
//! first, then the longer right half, as Hugging Face's converter orders them.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    iter, mem,
};

use serde_json::Value;

use super::SPACE;

/// Two halves that become one token.
type Merge<'a> = (&'a str, &'a str);

/// What a GGUF file has to say of a SentencePiece tokenizer, beside its tokens.
#[derive(Debug, PartialEq)]
pub(crate) struct SentencePieceRules {
    /// One per token; the greater is merged first.
    pub(crate) scores: Vec<f32>,
    /// Whether a space is put before a text, and before what follows a special token.
    pub(crate) adds_space: bool,
}

/// All merges, first to last, that `scores` stand for. `mergeable` says of a token's id whether text can become it.
pub(super) fn merges_by_score<'a>(
    tokens: &'a [String],
    scores: &[f32],
    mergeable: impl Fn(usize) -> bool,
) -> Vec<Merge<'a>> {
    let known: HashSet<&str> = tokens.iter().map(String::as_str).collect();
    let mut merges: Vec<(f32, &str, &str)> = Vec::new();
    for (id, token) in tokens.iter().enumerate().filter(|(id, _)| mergeable(*id)) {
        let halves = token.char_indices().skip(1).map(|(middle, _)| token.split_at(middle));
        let known = halves.filter(|(left, right)| known.contains(left) && known.contains(right));
        merges.extend(known.map(|(left, right)| (scores[id], left, right)));
    }
    let length = |half: &str| half.chars().count();
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(length(b.1).cmp(&length(a.1))).then(length(b.2).cmp(&length(a.2))));
    merges.into_iter().map(|(_, left, right)| (left, right)).collect()
}

impl SentencePieceRules {
    /// The rules of a `tokenizer.json`, whose tokens are `tokens` in the order of their ids; `fixed` are those that no
    /// text becomes by merging. The error says what GGUF has no room for.
    pub(crate) fn of(json: &Value, tokens: &[String], fixed: &HashSet<u32>) -> Result<Self, String> {
        let model = &json["model"];
        if model["ignore_merges"] == true {
            return Err("words that are tokens skip its merges (`ignore_merges`)".into());
        }
        let known: HashSet<&str> = tokens.iter().map(String::as_str).collect();
        if let Some(missing) = (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>")).find(|byte| !known.contains(&**byte))
        {
            return Err(format!("it has no token `{missing}` for that byte"));
        }
        let merges = merges_of(json);
        let mergeable = |id: usize| !fixed.contains(&(id as u32)) && !is_byte_token(&tokens[id]);
        Ok(Self { scores: scores(&merges, tokens, mergeable)?, adds_space: adds_space(json)? })
    }
}

/// Whether a token stands for one byte, as `<0xE2>` does.
pub(crate) fn is_byte_token(token: &str) -> bool {
    token.len() == 6 && token.starts_with("<0x") && token.ends_with('>')
}

/// The pairs of `model.merges`, in both spellings.
fn merges_of(json: &Value) -> Vec<Merge<'_>> {
    fn pair(merge: &Value) -> Option<Merge<'_>> {
        match merge {
            Value::Array(pair) => Some((pair.first()?.as_str()?, pair.get(1)?.as_str()?)),
            other => other.as_str()?.split_once(' '),
        }
    }
    json["model"]["merges"].as_array().map_or(&[][..], Vec::as_slice).iter().filter_map(pair).collect()
}

/// Scores that stand for exactly these merges; the error names the first that they would put elsewhere.
fn scores(merges: &[Merge<'_>], tokens: &[String], mergeable: impl Fn(usize) -> bool) -> Result<Vec<f32>, String> {
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
    let made = |merge: &Merge<'_>| ids.get(format!("{}{}", merge.0, merge.1).as_str()).copied();
    let merges: Vec<(usize, Merge<'_>)> =
        merges.iter().filter_map(|merge| Some((made(merge)?, *merge))).filter(|(token, _)| mergeable(*token)).collect();
    let groups = groups(&merges);
    // What nothing merges into comes last, as SentencePiece has it.
    let mut scores = vec![0.0 - groups.len() as f32; tokens.len()];
    for (place, group) in groups.iter().enumerate() {
        for &token in &group.tokens {
            scores[token] = 0.0 - place as f32;
        }
    }
    let expected = groups.into_iter().flat_map(|mut group| {
        // One token's own merges: SentencePiece takes the leftmost, whatever its halves.
        if group.tokens.len() == 1 {
            group.merges.sort_by_key(|(left, _)| Reverse(left.len()));
        }
        group.merges
    });
    let found = merges_by_score(tokens, &scores, mergeable);
    let mut pairs = expected.map(Some).chain(iter::repeat(None)).zip(found.iter().copied().map(Some).chain([None]));
    match pairs.find(|(expected, found)| expected != found) {
        None => Ok(scores),
        Some((expected, found)) => {
            let (left, right) = expected.or(found).unwrap_or_default();
            Err(format!("its merges are not in the order of scores, the first at `{left}` + `{right}`"))
        }
    }
}

/// Tokens that have one score, since their merges lie between each other's.
#[derive(Default)]
struct Group<'a> {
    tokens: HashSet<usize>,
    merges: Vec<Merge<'a>>,
}

/// All merges with the tokens that they make, in their order, cut into as many groups as there can be scores.
fn groups<'a>(merges: &[(usize, Merge<'a>)]) -> Vec<Group<'a>> {
    let last: HashMap<usize, usize> = merges.iter().enumerate().map(|(rank, (token, _))| (*token, rank)).collect();
    let mut groups = Vec::new();
    let (mut group, mut end) = (Group::default(), 0);
    for (rank, (token, merge)) in merges.iter().enumerate() {
        group.tokens.insert(*token);
        group.merges.push(*merge);
        end = end.max(last[token]);
        if rank == end {
            groups.push(mem::take(&mut group));
        }
    }
    groups
}

/// Whether a space is put before texts, by the only rules that GGUF has a name for.
fn adds_space(json: &Value) -> Result<bool, String> {
    let normalizer = &json["normalizer"];
    let steps = match normalizer["normalizers"].as_array() {
        Some(steps) => steps.as_slice(),
        None if normalizer.is_null() => &[],
        None => std::slice::from_ref(normalizer),
    };
    let (mut adds, mut replaces) = (false, false);
    for step in steps {
        let replaced = || step["pattern"]["String"] == " " && step["content"] == SPACE;
        match step["type"].as_str().unwrap_or_default() {
            "Prepend" if step["prepend"] == SPACE => adds = true,
            "Replace" if replaced() => replaces = true,
            other => return Err(format!("it changes text by `{other}` before cutting it")),
        }
    }
    let words = &json["pre_tokenizer"];
    if words["type"] == "Metaspace" && words["split"] == false && words["replacement"] == SPACE {
        let scheme = words["prepend_scheme"].as_str().unwrap_or("always");
        if scheme != "never" {
            return Err(format!(
                "it puts a space before texts by Metaspace's rule `{scheme}`, where GGUF means one before each part"
            ));
        }
        replaces = true;
    } else if !words.is_null() {
        let kind = words["type"].as_str().unwrap_or_default();
        return Err(format!("it cuts text into words by `{kind}` before merging"));
    }
    if replaces { Ok(adds) } else { Err(format!("it does not write spaces as `{SPACE}`")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// `<unk>`, all bytes, and `pieces` with merges.
    fn tokenizer(pieces: &[&str], merges: &[[&str; 2]]) -> (Value, Vec<String>) {
        let bytes = (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>"));
        let tokens: Vec<String> =
            [String::from("<unk>")].into_iter().chain(bytes).chain(pieces.iter().map(|&piece| piece.into())).collect();
        let json = json!({
            "normalizer": { "type": "Sequence", "normalizers": [
                { "type": "Prepend", "prepend": SPACE },
                { "type": "Replace", "pattern": { "String": " " }, "content": SPACE },
            ] },
            "pre_tokenizer": null,
            "model": { "type": "BPE", "byte_fallback": true, "ignore_merges": false, "merges": merges },
        });
        (json, tokens)
    }

    fn rules(json: &Value, tokens: &[String]) -> Result<SentencePieceRules, String> {
        SentencePieceRules::of(json, tokens, &HashSet::from([0]))
    }

    const PIECES: [&str; 9] = ["a", "b", "c", "ab", "abc", "bc", "cc", "ccc", "cccc"];

    #[test]
    fn scores_stand_for_the_merges() {
        // `ccc` and `cccc` have one score: their merges go by length.
        let merges = [
            ["b", "c"],
            ["a", "b"],
            ["a", "bc"],
            ["ab", "c"],
            ["ccc", "c"],
            ["cc", "cc"],
            ["cc", "c"],
            ["c", "ccc"],
            ["c", "cc"],
            ["c", "c"],
        ];
        let (json, tokens) = tokenizer(&PIECES, &merges);
        let found = rules(&json, &tokens).unwrap();
        assert!(found.adds_space);
        let score = |piece: &str| found.scores[tokens.iter().position(|token| token == piece).unwrap()];
        assert_eq!(
            PIECES[3..].iter().map(|piece| score(piece)).collect::<Vec<_>>(),
            [-1.0, -2.0, 0.0, -4.0, -3.0, -3.0]
        );
        assert!(score("a") < -4.0 && score("<unk>") < -4.0);
        // The other spelling of merges says the same.
        let mut other = json.clone();
        other["model"]["merges"] = merges.iter().map(|pair| pair.join(" ")).collect();
        assert_eq!(rules(&other, &tokens).unwrap(), found);
    }

    #[test]
    fn what_scores_cannot_say_is_refused() {
        let merges = [["b", "c"], ["a", "b"], ["a", "bc"]];
        let refuse = |json: &Value, tokens: &[String], part: &str| {
            let reason = rules(json, tokens).unwrap_err();
            assert!(reason.contains(part), "{reason}");
        };
        let (json, tokens) = tokenizer(&PIECES[..6], &merges);
        refuse(&json, &tokens, "`a` + `bc`");
        // Two tokens' merges between each other, in an order that is not that of their lengths.
        let (json, tokens) = tokenizer(&["c", "cc", "ccc"], &[["c", "cc"], ["c", "c"], ["cc", "c"]]);
        refuse(&json, &tokens, "not in the order of scores");
        let merges: [[&str; 2]; 1] = [["a", "b"]];
        let (json, tokens) = tokenizer(&["a", "b", "ab"], &merges);
        assert!(rules(&json, &tokens).is_ok());
        refuse(&json, &tokens[..256], "`<0xFF>`");
        for (place, value, part) in [
            ("normalizer", json!({ "type": "NFKC" }), "`NFKC`"),
            ("normalizer", json!({ "type": "Prepend", "prepend": SPACE }), "does not write spaces"),
            ("pre_tokenizer", json!({ "type": "Whitespace" }), "`Whitespace`"),
        ] {
            let mut changed = json.clone();
            changed[place] = value;
            refuse(&changed, &tokens, part);
        }
        let mut metaspace = json.clone();
        metaspace["normalizer"] = Value::Null;
        let by =
            |scheme| json!({ "type": "Metaspace", "replacement": SPACE, "split": false, "prepend_scheme": scheme });
        metaspace["pre_tokenizer"] = by("never");
        assert!(!rules(&metaspace, &tokens).unwrap().adds_space);
        metaspace["pre_tokenizer"] = by("first");
        refuse(&metaspace, &tokens, "rule `first`");
        let mut whole = json.clone();
        whole["model"]["ignore_merges"] = true.into();
        refuse(&whole, &tokens, "`ignore_merges`");
    }
}
