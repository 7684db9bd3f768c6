package banger

// maxCompared bounds the words that Edits compares, in bytes: longer ones are
// cut, since only near ones matter.
const maxCompared = 64

// Nearest returns the one of words that word was most likely meant to be, "" if
// none is near.
func Nearest(word string, words []string) string {
	best, bestCost := "", len(word)/2+1
	for _, candidate := range words {
		if cost := Edits(word, candidate); cost < bestCost {
			best, bestCost = candidate, cost
		}
	}
	return best
}

// Edits is the Levenshtein distance of two words in bytes.
func Edits(a, b string) int {
	a, b = a[:min(len(a), maxCompared)], b[:min(len(b), maxCompared)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
