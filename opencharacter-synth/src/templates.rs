//! The prompts, as files that a user can copy and change.

use std::{collections::BTreeMap, fs, path::Path};

use opencharacter_core::{PromptTemplate, SystemPrompt};

use crate::SynthError;

/// The prompts of synthesis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Templates {
    /// Asks for a profile. Placeholders: `persona`; `known`, a list of sentences with facts the persona states;
    /// `name_letters`, letters to begin the name with, empty where the persona states a name; `taken_names`, a list of
    /// names that others have, usually empty.
    pub profile: PromptTemplate,
    /// Asks for a question that a person might ask. Placeholders: `persona`; `number`, from 1: the how-manieth of the
    /// same person.
    pub question: PromptTemplate,
    /// Asks a judge how well a dialogue fits its character. Placeholders: `persona`, `profile` and `name`; `messages`, a
    /// list with `role` and `content`.
    pub judge: PromptTemplate,
    /// Asks to rewrite an answer in a character's voice (-R). Placeholders: `persona`, `profile` and `name`;
    /// `history`, a list of earlier turns with `user` and `answer`; `question`; `answer`, the plain one.
    pub rewrite: PromptTemplate,
    /// Makes a model play a character. Placeholders: `persona`, `profile`, `name`.
    pub system: SystemPrompt,
}

const NAMES: [&str; 5] = ["profile", "question", "judge", "rewrite", "system"];

impl Default for Templates {
    fn default() -> Self {
        Self {
            profile: PromptTemplate::new("profile", include_str!("../templates/profile.jinja")),
            question: PromptTemplate::new("question", include_str!("../templates/question.jinja")),
            judge: PromptTemplate::new("judge", include_str!("../templates/judge.jinja")),
            rewrite: PromptTemplate::new("rewrite", include_str!("../templates/rewrite.jinja")),
            system: SystemPrompt::default(),
        }
    }
}

impl Templates {
    /// The built-in templates, with those of the files `profile.jinja`, `question.jinja`, `judge.jinja`, `rewrite.jinja`
    /// and `system.jinja` in `directory` that exist in their place. Files whose name begins with a dot are ignored.
    ///
    /// # Errors
    /// [`SynthError::UnknownTemplate`] for any other file, so that a misspelt name is not silently without effect;
    /// [`SynthError::Read`].
    pub fn from_dir(directory: impl AsRef<Path>) -> Result<Self, SynthError> {
        let directory = directory.as_ref();
        let failed = |source| SynthError::Read { path: directory.to_owned(), source };
        let mut templates = Self::default();
        for entry in fs::read_dir(directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let file_name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if file_name.starts_with('.') {
                continue;
            }
            let source = || fs::read_to_string(&path).map_err(|source| SynthError::Read { path: path.clone(), source });
            match file_name.strip_suffix(".jinja") {
                Some("profile") => templates.profile = PromptTemplate::new("profile", source()?),
                Some("question") => templates.question = PromptTemplate::new("question", source()?),
                Some("judge") => templates.judge = PromptTemplate::new("judge", source()?),
                Some("rewrite") => templates.rewrite = PromptTemplate::new("rewrite", source()?),
                Some("system") => templates.system = SystemPrompt::new(source()?),
                _ => {
                    let known = NAMES.map(|name| format!("`{name}.jinja`")).join(", ");
                    return Err(SynthError::UnknownTemplate { path, known });
                }
            }
        }
        Ok(templates)
    }

    /// Writes all templates into `directory`, which is made if it does not exist, to be copied and changed.
    ///
    /// # Errors
    /// [`SynthError::Write`], also where a file of that name exists: changed templates are not written over.
    pub fn write_to(&self, directory: impl AsRef<Path>) -> Result<(), SynthError> {
        use std::io::Write as _;
        let directory = directory.as_ref();
        fs::create_dir_all(directory).map_err(|source| SynthError::Write { path: directory.to_owned(), source })?;
        for template in self.all() {
            let path = directory.join(format!("{}.jinja", template.name()));
            fs::File::create_new(&path)
                .and_then(|mut file| file.write_all(template.source().as_bytes()))
                .map_err(|source| SynthError::Write { path, source })?;
        }
        Ok(())
    }

    /// Name to hash, for provenance.
    pub fn hashes(&self) -> BTreeMap<String, String> {
        self.all().iter().map(|template| (template.name().to_owned(), template.hash())).collect()
    }

    /// The same of those that are named.
    pub fn hashes_of(&self, names: &[&str]) -> BTreeMap<String, String> {
        let mut hashes = self.hashes();
        hashes.retain(|name, _| names.contains(&name.as_str()));
        hashes
    }

    fn all(&self) -> [&PromptTemplate; 5] {
        [&self.profile, &self.question, &self.judge, &self.rewrite, self.system.template()]
    }
}
