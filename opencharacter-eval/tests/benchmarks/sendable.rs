//! A server or a command may run an evaluation on any thread.

use opencharacter_core::{Character, Sampling};
use opencharacter_eval::{
    Contender, ConversationOptions, ConversationParty, Judge, JudgeOptions, JudgeTrialOptions, Panel, PersonaGymMode,
    answer_items, judge_persona_gym, play_arena, run_conversations, score_refusals, try_judges, write_questions,
};

use crate::scripted::{Scripted, quiet};

fn sendable<T: Send>(_: T) {}

#[test]
fn every_evaluation_can_run_on_any_thread() {
    let model = Scripted::says("");
    let judges = vec![Judge { name: "j", model: &model }];
    let panel = Panel { exemplar_writer: &model, judges: judges.clone() };
    let options = JudgeOptions::default();
    let (mut items, characters) = (Vec::new(), Vec::<Character>::new());
    let sampling = Sampling::default();
    sendable(answer_items(&model, "", &mut items, &sampling, 0, &quiet));
    let mode = PersonaGymMode::Checked { questions_per_call: 1 };
    sendable(judge_persona_gym(&mut items, &panel, mode, &options, &quiet));
    sendable(try_judges(&items, &panel, JudgeTrialOptions::default(), &options, &quiet));
    sendable(write_questions(&model, &[], 1, &options, &quiet));
    let contender = Contender { name: "a", items: &items };
    sendable(play_arena(&[contender], &judges, &options, &quiet));
    let party = ConversationParty { user: &model, judge: None };
    let conversation = ConversationOptions::default();
    sendable(run_conversations(&model, party, &characters, &conversation, &options, &quiet));
    sendable(score_refusals(&mut items, &characters, None, &options, &quiet));
}
