//! What this worker's history lacks, and which question about it is open.
//!
//! 1. At most one question is open. It asks for everything after a place, so that its answer fills every hole there.
//! 2. The answer was made some time after the question, and nobody knows when: a hole that is found while one is open
//!    may be too young for it. Once it has come, there is another question.
//! 3. Of an answer of which a part was lost the end does not count as one.
//! 4. A question that nobody has answered is asked again, with everything that was found meanwhile.

use super::ring::Place;
use super::wire::Part;

#[derive(Debug, Default)]
pub(super) struct Gaps {
    open: Option<Question>,
}

#[derive(Debug)]
struct Question {
    after: Option<Place>,
    /// After its answer, everything after this has to be asked for.
    further: Option<Option<Place>>,
}

impl Gaps {
    /// Something after that place is missing. True: it is to be asked for now.
    pub(super) fn miss(&mut self, after: Option<Place>) -> bool {
        match &mut self.open {
            Some(question) => {
                let further = question.further.map_or(after, |known| known.min(after));
                question.further = Some(further);
                false
            }
            None => {
                self.open = Some(Question {
                    after,
                    further: None,
                });
                true
            }
        }
    }

    /// A part of some answer was lost.
    pub(super) fn lose(&mut self) {
        if let Some(question) = &self.open {
            let after = question.after;
            self.miss(after);
        }
    }

    /// This part of some answer has come. True: there is something to be asked for now.
    pub(super) fn fill(&mut self, part: &Part) -> bool {
        let Some(question) = self.open.take_if(|question| part.ends(question.after)) else {
            return false;
        };
        question.further.is_some_and(|after| self.miss(after))
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// What is to be asked for. `None`: nothing is missing.
    pub(super) fn ask(&mut self) -> Option<Option<Place>> {
        let question = self.open.as_mut()?;
        if let Some(further) = question.further.take() {
            question.after = question.after.min(further);
        }
        Some(question.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(number: u64) -> Option<Place> {
        Some(Place { epoch: 1, number })
    }

    /// The end of an answer to who has everything up to that place.
    fn end(after: Option<Place>) -> Part {
        Part::split(after, &[]).remove(0)
    }

    #[test]
    fn one_question_one_answer() {
        let mut gaps = Gaps::default();
        assert_eq!(gaps.ask(), None);
        assert!(gaps.miss(place(3)), "asked for at once");
        assert_eq!(gaps.ask(), Some(place(3)));
        assert!(!gaps.fill(&end(place(4))), "somebody else's answer");
        assert!(gaps.is_open());
        assert!(!gaps.fill(&end(place(3))));
        assert!(!gaps.is_open());
    }

    #[test]
    fn what_is_missed_while_a_question_is_open_is_asked_for_after_its_answer() {
        let mut gaps = Gaps::default();
        gaps.miss(place(3));
        assert!(!gaps.miss(place(9)) && !gaps.miss(place(7)), "not yet");
        assert!(gaps.fill(&end(place(3))), "now");
        assert_eq!(gaps.ask(), Some(place(7)));
        assert!(!gaps.fill(&end(place(7))));
        assert!(!gaps.is_open());
    }

    #[test]
    fn an_answer_of_which_a_part_was_lost_is_none() {
        let mut gaps = Gaps::default();
        gaps.lose();
        assert!(!gaps.is_open(), "it was nobody's here");
        gaps.miss(None);
        gaps.lose();
        assert!(gaps.fill(&end(None)), "it is asked again");
        assert_eq!(gaps.ask(), Some(None));
        assert!(!gaps.fill(&end(None)));
    }

    #[test]
    fn a_question_that_nobody_has_answered_is_asked_again_with_all_that_was_found_since() {
        let mut gaps = Gaps::default();
        gaps.miss(place(5));
        gaps.miss(place(2));
        assert_eq!(gaps.ask(), Some(place(2)));
        assert!(!gaps.fill(&end(place(2))), "there is nothing further");
    }
}
