//! Which models a run uses, as a recipe or a models file says it.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use opencharacter_remote::{ApiKey, BatchConfig, EndpointConfig, RemoteConfig};
use opencharacter_synth::Prices;
use serde::{Deserialize, Serialize};

use crate::{
    failure::Usage,
    model_source::{self, DEFAULT_MODEL},
};

/// The models of a run by role.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Models {
    /// Writes profiles and dialogues.
    pub teacher: ModelRecipe,
    /// Is fine-tuned.
    pub student: ModelRecipe,
}

impl Models {
    /// The `[models]` of a TOML file; a model file is looked for beside it.
    pub fn read(path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct ModelsFile {
            models: Models,
        }
        let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let file: ModelsFile = toml::from_str(&text)
            .map_err(|error| Usage(format!("`{}`: {}", path.display(), error.to_string().trim_end())))?;
        let mut models = file.models;
        let folder = path.parent().unwrap_or(Path::new("."));
        for model in [&mut models.teacher, &mut models.student] {
            model.relative_to(folder);
        }
        Ok(models)
    }
}

/// One model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ModelTable", into = "ModelTable")]
pub enum ModelRecipe {
    /// This program runs it: a built-in name, a GGUF file, a folder, or `hf:owner/name`.
    Embedded(String),
    /// It is served elsewhere.
    OpenAi(OpenAiModel),
}

/// A model behind OpenAI-compatible endpoints.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenAiModel {
    /// Its name there.
    pub model: String,
    base_urls: Vec<String>,
    api_key_env: Option<String>,
    max_in_flight: Option<usize>,
    prices: Option<Prices>,
    down_after: Option<f64>,
    /// Through the provider's batch API: half the price at some, and answers within a day.
    pub batch: bool,
}

/// The table as it is written.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ModelTable {
    provider: Provider,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base_url: Option<OneOrMany>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key_env: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_in_flight: Option<usize>,
    /// Ask through the provider's batch API.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    batch: bool,
    /// Seconds without a single answer after which the endpoint counts as gone and the run stops.
    #[serde(skip_serializing_if = "Option::is_none")]
    down_after: Option<f64>,
    /// Money per million tokens of prompts.
    #[serde(skip_serializing_if = "Option::is_none")]
    price_in: Option<f64>,
    /// The same for tokens generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    price_out: Option<f64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Provider {
    #[default]
    Embedded,
    OpenAi,
}

/// One address, or several that serve the same model.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Default for ModelRecipe {
    fn default() -> Self {
        Self::Embedded(DEFAULT_MODEL.into())
    }
}

impl TryFrom<ModelTable> for ModelRecipe {
    type Error = String;

    fn try_from(table: ModelTable) -> Result<Self, String> {
        let ModelTable {
            provider,
            model,
            base_url,
            api_key_env,
            max_in_flight,
            batch,
            price_in,
            price_out,
            down_after,
        } = table;
        match provider {
            Provider::Embedded => {
                let only = [
                    ("base_url", base_url.is_some()),
                    ("api_key_env", api_key_env.is_some()),
                    ("max_in_flight", max_in_flight.is_some()),
                    ("batch", batch),
                    ("down_after", down_after.is_some()),
                    ("price_in", price_in.is_some()),
                    ("price_out", price_out.is_some()),
                ];
                match only.iter().find(|(_, given)| *given) {
                    Some((key, _)) => Err(format!("`{key}` needs `provider = \"openai\"`")),
                    None => Ok(Self::Embedded(model.unwrap_or_else(|| DEFAULT_MODEL.into()))),
                }
            }
            Provider::OpenAi => {
                let base_urls = match base_url {
                    Some(OneOrMany::One(one)) => vec![one],
                    Some(OneOrMany::Many(many)) => many,
                    None => Vec::new(),
                };
                if base_urls.is_empty() {
                    return Err("`provider = \"openai\"` needs `base_url`, such as \"http://localhost:8000/v1\"".into());
                }
                if batch && base_urls.len() > 1 {
                    return Err("`batch = true` needs one `base_url`: a batch lies at one provider".into());
                }
                let model = model.ok_or("`provider = \"openai\"` needs `model`, the name at its endpoint")?;
                let prices = match (price_in, price_out) {
                    (None, None) => None,
                    (input, output) => Some(Prices { input: input.unwrap_or(0.0), output: output.unwrap_or(0.0) }),
                };
                if prices.is_some_and(|prices| !(prices.input >= 0.0 && prices.output >= 0.0)) {
                    return Err("`price_in` and `price_out` are money per million tokens: 0 or more".into());
                }
                Ok(Self::OpenAi(OpenAiModel {
                    model,
                    base_urls,
                    api_key_env,
                    max_in_flight,
                    prices,
                    down_after,
                    batch,
                }))
            }
        }
    }
}

impl From<ModelRecipe> for ModelTable {
    fn from(recipe: ModelRecipe) -> Self {
        match recipe {
            ModelRecipe::Embedded(model) => Self { model: Some(model), ..Self::default() },
            ModelRecipe::OpenAi(OpenAiModel {
                model,
                base_urls,
                api_key_env,
                max_in_flight,
                prices,
                down_after,
                batch,
            }) => Self {
                provider: Provider::OpenAi,
                model: Some(model),
                base_url: Some(OneOrMany::Many(base_urls)),
                api_key_env,
                max_in_flight,
                batch,
                down_after,
                price_in: prices.map(|prices| prices.input),
                price_out: prices.map(|prices| prices.output),
            },
        }
    }
}

impl ModelRecipe {
    /// The model's name, whoever runs it.
    pub fn name(&self) -> &str {
        match self {
            Self::Embedded(model) | Self::OpenAi(OpenAiModel { model, .. }) => model,
        }
    }

    /// What its tokens cost, where that is stated.
    pub fn prices(&self) -> Option<Prices> {
        match self {
            Self::Embedded(_) => None,
            Self::OpenAi(model) => model.prices,
        }
    }

    /// A model file beside `folder` is found there.
    pub fn relative_to(&mut self, folder: &Path) {
        let Self::Embedded(model) = self else { return };
        let beside = folder.join(&*model);
        if beside.exists() {
            *model = beside.display().to_string();
        }
    }
}

impl OpenAiModel {
    /// The remote model's configuration; its key comes from the environment.
    pub fn config(&self) -> Result<RemoteConfig> {
        let mut config = RemoteConfig::new(&self.model, self.endpoints()?);
        if let Some(most) = self.max_in_flight {
            config.max_in_flight = most;
        }
        if let Some(time) = self.down_after()? {
            config.down_after = time;
        }
        Ok(config)
    }

    /// The same for its batch API. What is submitted is noted in a folder that belongs to `work`.
    pub fn batch_config(&self, work: &str) -> Result<BatchConfig> {
        let [endpoint] = <[_; 1]>::try_from(self.endpoints()?)
            .map_err(|_| Usage("`batch = true` needs one `base_url`: a batch lies at one provider".into()))?;
        let name = opencharacter_core::short_id("batches", &[self.base_urls[0].as_str(), &self.model, work]);
        let folder = model_source::cache_folder()?.join("batches").join(name);
        let mut config = BatchConfig::new(&self.model, endpoint, folder);
        if let Some(most) = self.max_in_flight {
            config.max_requests = most;
        }
        if let Some(time) = self.down_after()? {
            config.down_after = time;
        }
        Ok(config)
    }

    fn endpoints(&self) -> Result<Vec<EndpointConfig>> {
        let key = self.api_key_env.as_deref().map(ApiKey::from_environment).transpose()?;
        let endpoints = self.base_urls.iter().map(|url| EndpointConfig::new(url, key.clone()));
        Ok(endpoints.collect::<Result<_, _>>()?)
    }

    fn down_after(&self) -> Result<Option<Duration>> {
        let time = |seconds| {
            Duration::try_from_secs_f64(seconds).map_err(|error| Usage(format!("`down_after` is {seconds}: {error}")))
        };
        Ok(self.down_after.map(time).transpose()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_embedded_or_served_and_nothing_between() {
        let parse = |text: &str| toml::from_str::<ModelRecipe>(text).map_err(|error| error.to_string());
        assert_eq!(parse("").unwrap(), ModelRecipe::default());
        assert_eq!(parse("model = \"a.gguf\"").unwrap(), ModelRecipe::Embedded("a.gguf".into()));
        let served = "provider = \"openai\"\nmodel = \"m\"\nbase_url = [\"http://a/v1\", \"http://b/v1\"]";
        let ModelRecipe::OpenAi(model) = parse(served).unwrap() else { panic!("it is served elsewhere") };
        assert_eq!(model.config().unwrap().endpoints.len(), 2);
        let again = toml::to_string(&ModelRecipe::OpenAi(model.clone())).unwrap();
        assert_eq!(parse(&again).unwrap(), ModelRecipe::OpenAi(model));
        for (text, part) in [
            ("base_url = \"http://a/v1\"", "needs `provider = \"openai\"`"),
            ("provider = \"openai\"\nmodel = \"m\"", "needs `base_url`"),
            ("provider = \"openai\"\nbase_url = \"http://a/v1\"", "needs `model`"),
            ("provider = \"azure\"", "azure"),
            ("batch = true", "needs `provider = \"openai\"`"),
            (&format!("{served}\nbatch = true"), "needs one `base_url`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
