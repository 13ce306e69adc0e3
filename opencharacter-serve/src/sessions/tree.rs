//! A chat's messages as a tree.

use std::collections::HashMap;

use opencharacter_core::Role;

use crate::store::Said;

/// Messages of one chat. Parents are older than their children, so there are no circles.
pub(super) struct Tree<'a> {
    by_id: HashMap<i64, &'a Said>,
    children: HashMap<Option<i64>, Vec<i64>>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(messages: &'a [Said]) -> Self {
        let mut children: HashMap<Option<i64>, Vec<i64>> = HashMap::new();
        for message in messages {
            children.entry(message.parent).or_default().push(message.id);
        }
        Self { by_id: messages.iter().map(|message| (message.id, message)).collect(), children }
    }

    /// From the first message to `leaf`.
    pub(super) fn branch(&self, leaf: Option<i64>) -> Vec<&'a Said> {
        let mut branch = Vec::new();
        let mut next = leaf;
        while let Some(message) = next.and_then(|id| self.by_id.get(&id)) {
            branch.push(*message);
            next = message.parent.filter(|parent| *parent < message.id);
        }
        branch.reverse();
        branch
    }

    /// What was said next, each way.
    pub(super) fn children(&self, parent: Option<i64>) -> &[i64] {
        self.children.get(&parent).map_or(&[], Vec::as_slice)
    }

    /// The messages in whose places `message` could stand, itself among them.
    pub(super) fn swipes(&self, message: &Said) -> Vec<i64> {
        let of_role = |id: &&i64| self.by_id.get(id).is_some_and(|other| other.role == message.role);
        self.children(message.parent).iter().filter(of_role).copied().collect()
    }

    /// The latest end of the branches through a message.
    pub(super) fn end_of(&self, message: i64) -> i64 {
        let mut end = message;
        while let Some(last) = self.children(Some(end)).last().filter(|last| **last > end) {
            end = *last;
        }
        end
    }

    /// The number of the greeting that a branch begins with.
    pub(super) fn greeting(&self, branch: &[&Said]) -> Option<usize> {
        let first = branch.first().filter(|first| first.role == Role::Assistant)?;
        self.swipes(first).iter().position(|id| *id == first.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(id: i64, parent: Option<i64>, role: Role) -> Said {
        Said { id, parent, role, content: id.to_string(), model: None, trace: None, created: 0 }
    }

    #[test]
    fn branches_swipes_and_ends() {
        let messages = [
            said(1, None, Role::Assistant),
            said(2, None, Role::Assistant),
            said(3, Some(2), Role::User),
            said(4, Some(3), Role::Assistant),
            said(5, Some(3), Role::Assistant),
            said(6, Some(4), Role::User),
        ];
        let tree = Tree::new(&messages);
        let ids = |branch: Vec<&Said>| branch.iter().map(|said| said.id).collect::<Vec<_>>();
        assert_eq!(ids(tree.branch(Some(6))), [2, 3, 4, 6]);
        assert_eq!(ids(tree.branch(None)), [0_i64; 0]);
        assert_eq!(tree.swipes(&messages[3]), [4, 5]);
        assert_eq!(tree.swipes(&messages[0]), [1, 2]);
        assert_eq!((tree.end_of(2), tree.end_of(4), tree.end_of(1)), (5, 6, 1));
        assert_eq!(tree.greeting(&tree.branch(Some(6))), Some(1));
    }

    #[test]
    fn damaged_parents_end_a_branch() {
        let messages = [said(1, Some(2), Role::User), said(2, Some(1), Role::User), said(3, Some(9), Role::User)];
        let tree = Tree::new(&messages);
        assert_eq!(tree.branch(Some(1)).len(), 1);
        assert_eq!(tree.branch(Some(2)).len(), 2);
        assert_eq!(tree.branch(Some(3)).len(), 1);
        assert_eq!(tree.end_of(1), 2);
    }
}
