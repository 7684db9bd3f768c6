package trace

// Foreign maps times of another clock, of a machine that is not trusted, to
// ours. Whatever that machine says, the answer lies in the time in which it can
// have happened.
type Foreign struct{ offset, from int64 }

// MapForeign compares the clocks by one call: it left here at sent and its answer
// was here at back; by the other clock it arrived at arrived and was answered at
// answered. The way there is taken to be as long as the way back.
func MapForeign(sent, back, arrived, answered int64) Foreign {
	// The sums may wrap around, if the other side wants them to; At bounds what
	// comes of it.
	there, here := sent-arrived, back-answered
	return Foreign{offset: there + (here-there)/2, from: sent}
}

// Span is a span of the other side, from start to end by its clock, that was over
// at until by ours.
func (f Foreign) Span(s Span, until int64) Span {
	s.Start = f.At(s.Start, until)
	s.End = max(f.At(s.End, until), s.Start)
	return s
}

// At is when that clock's t was, by ours. What is mapped happened after the call
// was sent, and before until, in nanoseconds.
func (f Foreign) At(t, until int64) int64 {
	return min(max(t+f.offset, f.from), max(until, f.from))
}
