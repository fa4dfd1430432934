"""Models: what is known of Hugging Face's encoder-decoders.

A family is data (`families`): how its tokenizer frames a document, how its layers and attentions are called. `shapes`
makes models without pretrained weights; `class_swap` gives a module instance a subclass of its own class, and back.
"""
