//! `pairs`.

use anyhow::{Result, bail};
use opencharacter_synth::{OnError, pair_dialogues, write_jsonl_atomic};

use crate::{
    cli::PairsArguments,
    inputs::{self, Input},
};

/// `opencharacter pairs`
pub async fn command(arguments: &PairsArguments) -> Result<()> {
    let (dialogues, _) = inputs::dialogues(&Input::new(arguments.dialogues.clone(), OnError::Fail), None).await?;
    let made = pair_dialogues(&dialogues, arguments.seed);
    if made.pairs.is_empty() {
        bail!(
            "`{}`: no question is answered by two characters; make dialogues with `--characters-per-instruction 2` or more",
            arguments.dialogues
        );
    }
    write_jsonl_atomic(&arguments.out, &made.pairs)?;
    eprintln!(
        "{} pairs in `{}`; {} dialogues have no other character's answer to the same question",
        made.pairs.len(),
        arguments.out.display(),
        made.alone
    );
    Ok(())
}
