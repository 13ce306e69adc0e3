use std::fmt;

use opencharacter_similarity::{OverlapKind, Reference, Similarity, SimilarityError};
use serde::Serialize;

/// The texts of one benchmark file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceFile {
    /// Its name, for reports.
    pub file: String,
    /// One per row, in the file's order.
    pub texts: Vec<String>,
}

/// Finds rows that overlap with benchmarks.
pub struct Decontamination {
    references: Vec<(String, Reference)>,
}

/// A row that overlaps with a benchmark. Shown as ``row 3, `ID`: contains row 17 of `FILE` ``.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OverlappingRow {
    /// The row's number from 1.
    pub row: usize,
    /// Its id.
    pub id: String,
    /// Which of its texts it is, from 1.
    pub text: usize,
    /// The benchmark's file.
    pub file: String,
    /// The benchmark's row, from 1.
    pub file_row: usize,
    /// In what way they overlap.
    pub kind: OverlapKind,
    /// The Jaccard index of both texts' shingles.
    pub similarity: f64,
}

impl Decontamination {
    /// Against `files`, with quotations of `run` words (see [`Reference`]; 13 is usual).
    ///
    /// # Errors
    /// [`SimilarityError::Run`].
    pub fn new(files: &[ReferenceFile], similarity: Similarity, run: usize) -> Result<Self, SimilarityError> {
        let reference = |file: &ReferenceFile| Ok((file.file.clone(), Reference::new(similarity, run, &file.texts)?));
        Ok(Self { references: files.iter().map(reference).collect::<Result<_, SimilarityError>>()? })
    }

    /// The overlaps of `rows` (id and texts), in their order: for each text and file the strongest one.
    pub fn overlaps(&self, rows: &[(&str, Vec<&str>)]) -> Vec<OverlappingRow> {
        let places: Vec<(usize, usize)> = rows
            .iter()
            .enumerate()
            .flat_map(|(row, (_, texts))| (0..texts.len()).map(move |text| (row, text)))
            .collect();
        let texts: Vec<&str> = places.iter().map(|&(row, text)| rows[row].1[text]).collect();
        let mut found: Vec<OverlappingRow> = Vec::new();
        for (file, reference) in &self.references {
            let overlaps = places.iter().zip(reference.overlaps(&texts));
            found.extend(overlaps.filter_map(|(&(row, text), overlap)| {
                let overlap = overlap?;
                Some(OverlappingRow {
                    row: row + 1,
                    id: rows[row].0.to_owned(),
                    text: text + 1,
                    file: file.clone(),
                    file_row: overlap.index + 1,
                    kind: overlap.kind,
                    similarity: overlap.similarity,
                })
            }));
        }
        // Stable: of one text, the files keep their order.
        found.sort_by_key(|found| (found.row, found.text));
        found
    }
}

impl fmt::Display for OverlappingRow {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let Self { row, id, file, file_row, similarity, .. } = self;
        write!(formatter, "row {row}, `{id}`: ")?;
        match self.kind {
            OverlapKind::Exact => write!(formatter, "the same words as row {file_row} of `{file}`"),
            OverlapKind::Near => {
                write!(formatter, "near-duplicate of row {file_row} of `{file}` (similarity {similarity:.2})")
            }
            OverlapKind::Contains => write!(formatter, "contains words of row {file_row} of `{file}`"),
        }
    }
}
