use opencharacter_eval::{
    Contender, EvalItem, Judge, JudgeOptions, PairVerdict, Reply, play_arena, rank_arena, statistics::Resampling,
};

use crate::{
    persona_gym::answered,
    scripted::{Scripted, player, quiet},
};

/// Answers of a system that says `text`.
fn saying(items: &[EvalItem], text: &str) -> Vec<EvalItem> {
    let answer = Reply::Answered { text: text.to_owned(), cut_off: false };
    items.iter().map(|item| EvalItem { answer: answer.clone(), ..item.clone() }).collect()
}

/// The two answers of a comparison, as they are shown.
fn shown(prompt: &str) -> [String; 2] {
    let answers: Vec<String> =
        prompt.split("<answer>\n").skip(1).map(|rest| rest.split("\n</answer>").next().unwrap().to_owned()).collect();
    answers.try_into().unwrap()
}

fn prefers(better: impl Fn([String; 2]) -> &'static str + Send + Sync + 'static) -> Scripted {
    Scripted::new(move |request| {
        let better = better(shown(&request.messages[0].content));
        Ok(format!(r#"{{"reason": "because", "better": "{better}"}}"#))
    })
}

#[tokio::test]
async fn the_longer_answer_wins_in_both_orders_where_the_judge_likes_length() {
    let items = answered(6, 1, &player()).await;
    let (short, middle, long) = (saying(&items, "a"), saying(&items, "aa"), saying(&items, "aaa"));
    let contenders = [("middle", &middle), ("short", &short), ("long", &long)];
    let contenders = contenders.map(|(name, items)| Contender { name, items });
    let judge = prefers(|[first, second]| if first.len() > second.len() { "A" } else { "B" });
    let judges = [Judge { name: "length", model: &judge }];
    let matches = play_arena(&contenders, &judges, &JudgeOptions::default(), &quiet).await.unwrap();
    assert_eq!((matches.len(), judge.calls()), (90, 180));
    let found = rank_arena(&matches, &Resampling::default());
    let names: Vec<&str> = found.ranking.iter().map(|ranked| ranked.name.as_str()).collect();
    assert_eq!(names, ["long", "middle", "short"]);
    assert_eq!((found.matches, found.missing), (90, 0));
    assert_eq!(found.judges[0].consistent.unwrap().mean, 1.0);
    assert_eq!(found.judges[0].first_place.unwrap().mean, 0.5);
    assert_eq!(found.ranking[0].strength.share, 1.0);
}

#[tokio::test]
async fn a_judge_that_likes_the_first_place_ranks_nobody() {
    let items = answered(4, 1, &player()).await;
    let (one, other) = (saying(&items, "a"), saying(&items, "b"));
    let contenders = [Contender { name: "one", items: &one }, Contender { name: "other", items: &other }];
    let judge = prefers(|_| "A");
    let judges = [Judge { name: "first", model: &judge }];
    let matches = play_arena(&contenders, &judges, &JudgeOptions::default(), &quiet).await.unwrap();
    let found = rank_arena(&matches, &Resampling::default());
    assert!(found.ranking.iter().all(|ranked| ranked.strength.mean.abs() < 1e-9), "{found:?}");
    assert_eq!(found.judges[0].consistent.unwrap().mean, 0.0);
    assert_eq!(found.judges[0].first_place.unwrap().mean, 1.0);
}

#[tokio::test]
async fn prose_is_a_missing_match() {
    let items = answered(2, 1, &player()).await;
    let (one, other) = (saying(&items, "a"), saying(&items, "b"));
    let contenders = [Contender { name: "one", items: &one }, Contender { name: "other", items: &other }];
    let judge = Scripted::says("I prefer A, on the whole.");
    let judges = [Judge { name: "poet", model: &judge }];
    let matches = play_arena(&contenders, &judges, &JudgeOptions::default(), &quiet).await.unwrap();
    assert!(matches.iter().all(|found| matches!(found.forth, PairVerdict::Missing { .. }) && found.credit().is_none()));
    let found = rank_arena(&matches, &Resampling::default());
    assert_eq!((found.matches, found.missing), (0, 10));
    let error = play_arena(&contenders[..1], &judges, &JudgeOptions::default(), &quiet).await.unwrap_err().to_string();
    assert!(error.contains("two systems"), "{error}");
}
