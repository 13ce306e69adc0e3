/// Which texts have which key in one band: open addressing with linear probing, 8 bytes per slot.
///
/// A key may have many texts, each in a slot of its own.
#[derive(Debug, Clone, Default)]
pub(crate) struct BandTable {
    slots: Vec<Slot>,
    used: usize,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    key: u32,
    text: u32,
}

/// A number that no text has.
const NOBODY: u32 = u32::MAX;
const EMPTY: Slot = Slot { key: 0, text: NOBODY };

impl BandTable {
    /// The texts with `key`, in no stated order.
    pub(crate) fn texts(&self, key: u32) -> impl Iterator<Item = u32> {
        // At least a quarter of the slots are empty, so this ends.
        self.slots_from(key)
            .take_while(|slot| slot.text != NOBODY)
            .filter(move |slot| slot.key == key)
            .map(|slot| slot.text)
    }

    fn slots_from(&self, key: u32) -> impl Iterator<Item = &Slot> {
        let (before, after) = self.slots.split_at(home(key, self.slots.len()));
        after.iter().chain(before)
    }

    pub(crate) fn insert(&mut self, key: u32, text: u32) {
        if self.used * 4 >= self.slots.len() * 3 {
            self.grow();
        }
        self.place(Slot { key, text });
        self.used += 1;
    }

    fn place(&mut self, slot: Slot) {
        let mut place = home(slot.key, self.slots.len());
        while self.slots[place].text != NOBODY {
            place = if place + 1 == self.slots.len() { 0 } else { place + 1 };
        }
        self.slots[place] = slot;
    }

    /// To half as many again: memory matters more here than copying.
    fn grow(&mut self) {
        let larger = vec![EMPTY; (self.slots.len() + self.slots.len() / 2).max(16)];
        for slot in std::mem::replace(&mut self.slots, larger) {
            if slot.text != NOBODY {
                self.place(slot);
            }
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of::<Slot>() * self.slots.capacity()
    }
}

/// Where a key's texts are looked for first: the key's share of the whole range, in slots.
fn home(key: u32, slots: usize) -> usize {
    ((u128::from(key) * slots as u128) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn holds_what_was_put_in(keys in proptest::collection::vec(prop_oneof![0_u32..4, Just(u32::MAX), any::<u32>()], 0..200), absent: u32) {
            let mut table = BandTable::default();
            let mut expected: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
            prop_assert_eq!(table.texts(absent).count(), 0);
            for (text, &key) in (0..).zip(&keys) {
                table.insert(key, text);
                expected.entry(key).or_default().push(text);
            }
            expected.entry(absent).or_default();
            for (key, texts) in expected {
                let mut found: Vec<u32> = table.texts(key).collect();
                found.sort_unstable();
                prop_assert_eq!(found, texts);
            }
        }
    }
}
