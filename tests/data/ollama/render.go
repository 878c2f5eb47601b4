// Renders conversations with a Go template as Ollama does, to hold the templates that mentor-edge writes.
//
// Input: {"template": ..., "conversations": [{"messages": [...], "tools": [...]}]} with messages and tools in OpenAI's
// format. Output: {"tag": the tag that opens a call, as Ollama finds it, "texts": [...]}.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/template"
	"text/template/parse"
)

// What templates see of ollama's api package. Maps are written with sorted keys, fields in this order.
type Property struct {
	Type        any    `json:"type,omitempty"`
	Items       any    `json:"items,omitempty"`
	Description string `json:"description,omitempty"`
	Enum        []any  `json:"enum,omitempty"`
}

type Parameters struct {
	Type       string              `json:"type"`
	Required   []string            `json:"required,omitempty"`
	Properties map[string]Property `json:"properties"`
}

type ToolFunction struct {
	Name        string     `json:"name"`
	Description string     `json:"description,omitempty"`
	Parameters  Parameters `json:"parameters"`
}

type Tool struct {
	Type     string       `json:"type"`
	Function ToolFunction `json:"function"`
}

type Call struct {
	Function struct {
		Name      string         `json:"name"`
		Arguments map[string]any `json:"arguments"`
	} `json:"function"`
}

type Message struct {
	Role      string `json:"role"`
	Content   string `json:"content"`
	ToolCalls []Call `json:"tool_calls"`
}

type Conversation struct {
	Messages []*Message `json:"messages"`
	Tools    []Tool     `json:"tools"`
}

// openingTag is the first text below the first `if .ToolCalls`, up to its first brace.
func openingTag(node parse.Node, below bool) (string, bool) {
	if node == nil {
		return "", false
	}
	var lists []*parse.ListNode
	switch n := node.(type) {
	case *parse.TextNode:
		if below {
			tag, _, _ := strings.Cut(strings.TrimSpace(string(n.Text)), "{")
			return tag, true
		}
		return "", false
	case *parse.ActionNode:
		return "", below // ollama gives up at an action
	case *parse.ListNode:
		for _, child := range n.Nodes {
			if tag, found := openingTag(child, below); found {
				return tag, true
			}
		}
		return "", false
	case *parse.IfNode:
		below = below || strings.Contains(n.Pipe.String(), ".ToolCalls")
		lists = []*parse.ListNode{n.List, n.ElseList}
	case *parse.RangeNode:
		lists = []*parse.ListNode{n.List, n.ElseList}
	case *parse.WithNode:
		lists = []*parse.ListNode{n.List, n.ElseList}
	}
	for _, list := range lists {
		if list != nil {
			if tag, found := openingTag(list, below); found {
				return tag, true
			}
		}
	}
	return "", false
}

func main() {
	var input struct {
		Template      string         `json:"template"`
		Conversations []Conversation `json:"conversations"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&input); err != nil {
		panic(err)
	}
	functions := template.FuncMap{"json": func(value any) string {
		text, _ := json.Marshal(value)
		return string(text)
	}}
	parsed := template.Must(template.New("").Option("missingkey=zero").Funcs(functions).Parse(input.Template))
	texts := []string{}
	for _, conversation := range input.Conversations {
		system := []string{}
		for _, message := range conversation.Messages {
			if message.Role == "system" {
				system = append(system, message.Content)
			}
		}
		var text strings.Builder
		values := map[string]any{
			"System": strings.Join(system, "\n\n"), "Messages": conversation.Messages, "Tools": conversation.Tools,
			"Response": "",
		}
		if err := parsed.Execute(&text, values); err != nil {
			panic(err)
		}
		texts = append(texts, text.String())
	}
	tag, _ := openingTag(parsed.Tree.Root, false)
	output, _ := json.Marshal(map[string]any{"tag": tag, "texts": texts})
	fmt.Println(string(output))
}
