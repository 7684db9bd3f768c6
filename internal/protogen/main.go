// Command protogen regenerates the Go code of the contracts in proto/ into
// api/, with the compiler and plugins pinned in go.mod: no protoc needed.
//
//	go tool protogen            writes api/
//	go tool protogen -out DIR   writes DIR instead (the tests compare)
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

// module is the prefix that the plugins cut off the go_package of each file.
const module = "module=github.com/banger-dev/banger/api"

// contracts names each file and the plugins that it needs beside protoc-gen-go.
var contracts = []struct{ file, plugin, options string }{
	{"banger/v1/banger.proto", "protoc-gen-connect-go", module + ""},
	{"banger/vm/v1/vm.proto", "protoc-gen-connect-go", module + ""},
	{"banger/agent/v1/agent.proto", "protoc-gen-go-ttrpc", module},
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("protogen: ")
	root := flag.String("proto", "proto", "folder of the contracts")
	out := flag.String("out", "api", "folder to write")
	flag.Parse()
	for _, c := range contracts {
		request, err := compile(*root, c.file)
		if err != nil {
			log.Fatal(err)
		}
		for plugin, options := range map[string]string{"protoc-gen-go": module, c.plugin: c.options} {
			if err := generate(request, plugin, options, *out); err != nil {
				log.Fatalf("%s: %s: %v", c.file, plugin, err)
			}
		}
	}
}

// compile turns one contract into the request that a protoc plugin reads.
func compile(root, file string) (*pluginpb.CodeGeneratorRequest, error) {
	compiler := protocompile.Compiler{
		Resolver:       &protocompile.SourceResolver{ImportPaths: []string{root}},
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	files, err := compiler.Compile(context.Background(), file)
	if err != nil {
		return nil, err
	}
	descriptor := protodesc.ToFileDescriptorProto(files[0])
	return &pluginpb.CodeGeneratorRequest{
		FileToGenerate: []string{file},
		ProtoFile:      []*descriptorpb.FileDescriptorProto{descriptor},
	}, nil
}

// generate runs one plugin and writes the files it answers with.
func generate(request *pluginpb.CodeGeneratorRequest, plugin, options, out string) error {
	request.Parameter = proto.String(options)
	input, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	cmd := exec.Command("go", "tool", plugin)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), os.Stderr
	output, err := cmd.Output()
	if err != nil {
		return err
	}
	response := new(pluginpb.CodeGeneratorResponse)
	if err := proto.Unmarshal(output, response); err != nil {
		return err
	}
	if response.Error != nil {
		return fmt.Errorf("%s", response.GetError())
	}
	for _, f := range response.File {
		name := filepath.Join(out, strings.TrimPrefix(f.GetName(), "/"))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, []byte(f.GetContent()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
