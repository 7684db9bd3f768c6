package catalog

// Nearest returns the one of names that name was most likely meant to be, ""
// if none is near.
func Nearest(name string, names []string) string {
	best, bestCost := "", len(name)/2+1
	for _, candidate := range names {
		if cost := edits(name, candidate); cost < bestCost {
			best, bestCost = candidate, cost
		}
	}
	return best
}

// edits is the Levenshtein distance in bytes of two names, which are short.
func edits(a, b string) int {
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
