package apt

import (
	"context"
	"os"
	"path/filepath"
	"strings"
)

// Download fetches p and returns the path of its verified .deb, which belongs to
// the caller. One that is there already is verified and not fetched again. When
// it fails it leaves nothing: apt-get download does not go on with a part.
func (a *Archive) Download(ctx context.Context, p Package, report Progress) (string, error) {
	path, err := a.download(ctx, p, report)
	if err != nil {
		a.sweep(p, "")
	}
	return path, err
}

func (a *Archive) download(ctx context.Context, p Package, report Progress) (string, error) {
	out, err := a.run(ctx, report, "apt-get", "download", p.Name+"="+p.Version)
	if isExit(err) {
		return "", a.failure("apt-get download "+p.Name, out.stderr)
	}
	if err != nil {
		return "", err
	}
	path := filepath.Join(a.debs, debName(p))
	info, err := os.Stat(path)
	if err != nil {
		return "", a.failure("apt-get download "+p.Name, "it left no "+debName(p))
	}
	if info.Size() != p.Size {
		return "", a.failure("apt-get download "+p.Name, debName(p)+" has the wrong size")
	}
	a.sweep(p, debName(p))
	return path, nil
}

// debName is the name apt gives the file: name, version and architecture, with
// the characters quoted that it quotes.
func debName(p Package) string {
	arch := strings.TrimSuffix(p.Filename[strings.LastIndexByte(p.Filename, '_')+1:], ".deb")
	quote := strings.NewReplacer("%", "%25", "_", "%5f", ":", "%3a")
	return quote.Replace(p.Name) + "_" + quote.Replace(p.Version) + "_" + arch + ".deb"
}

// sweep removes the files of p's name but one: versions that an interrupted
// download left, and what apt keeps of a file that it refused (.FAILED).
func (a *Archive) sweep(p Package, keep string) {
	found, _ := filepath.Glob(filepath.Join(a.debs, p.Name+"_*.deb*"))
	for _, name := range found {
		if filepath.Base(name) != keep {
			_ = os.Remove(name)
		}
	}
}
