//! Adapters that come with a character, in its CHARX.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opencharacter_card::{Asset, Card, CardFile};

use crate::{app::App, error::ApiError, model::ServedModel, openai::CHARACTER};

/// Adapters in memory at a time; the one that was used longest ago makes room.
const KEPT: usize = 8;

/// What an asset that is part of an adapter is called in a CHARX.
const KIND: &str = "x_adapter";

/// A character's model, or why its adapter cannot be used.
pub(crate) type Adapted = Result<Arc<dyn ServedModel>, String>;

/// Adapters that were loaded, by character, the last used one last.
#[derive(Default)]
pub(crate) struct Adapters(Mutex<Vec<(String, Adapted)>>);

impl Adapters {
    fn kept(&self) -> MutexGuard<'_, Vec<(String, Adapted)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: &str) -> Option<Adapted> {
        let mut kept = self.kept();
        let place = kept.iter().position(|(known, _)| known == id)?;
        let entry = kept.remove(place);
        let adapted = entry.1.clone();
        kept.push(entry);
        Some(adapted)
    }

    fn keep(&self, id: &str, adapted: Adapted) {
        let mut kept = self.kept();
        kept.retain(|(known, _)| known != id);
        let surplus = (kept.len() + 1).saturating_sub(KEPT);
        kept.drain(..surplus);
        kept.push((id.to_owned(), adapted));
    }

    /// The character's card is another one now, or gone.
    pub(crate) fn forget(&self, id: &str) {
        self.kept().retain(|(known, _)| known != id);
    }
}

fn part<'c>(card: &'c Card, name: &str) -> Option<&'c Asset> {
    card.assets.iter().flatten().find(|asset| asset.kind == KIND && asset.name == name)
}

/// The character's own adapter, if its card has one.
pub(crate) async fn own_adapter(app: &Arc<App>, id: &str, card: &Card) -> Result<Option<Adapted>, ApiError> {
    let (Some(_), Some(_)) = (part(card, "adapter_config"), part(card, "adapter_model")) else { return Ok(None) };
    if let Some(known) = app.adapters.get(id) {
        return Ok(Some(known));
    }
    let Some(file) = app.store.file(id)? else { return Ok(None) };
    let loader = Arc::clone(app);
    let loaded = tokio::task::spawn_blocking(move || load(&loader, &file)).await;
    let adapted = loaded.unwrap_or_else(|error| Err(format!("it cannot be loaded: {error}")));
    app.adapters.keep(id, adapted.clone());
    Ok(Some(adapted))
}

fn load(app: &App, file: &CardFile) -> Adapted {
    let content = |name: &str| {
        let asset = part(&file.card, name).ok_or_else(|| format!("`{name}` is missing"))?;
        let content = file.asset(asset).map_err(|error| error.to_string())?;
        content.ok_or_else(|| format!("`{}` did not come with the card", asset.uri))
    };
    app.workshop.adapted(&content("adapter_config")?, &content("adapter_model")?)
}

/// Who speaks for a character, and under which name: its own adapter where it has one that fits, else the first model.
pub(crate) async fn speaker(app: &Arc<App>, id: &str, card: &Card) -> Result<(String, Arc<dyn ServedModel>), ApiError> {
    if let Some(Ok(own)) = own_adapter(app, id, card).await? {
        return Ok((format!("{CHARACTER}{id}"), own));
    }
    let (name, model) = app.models.first();
    Ok((name.to_owned(), Arc::clone(model)))
}
